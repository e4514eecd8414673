/*
 * The life of a container in as few words as the kernel lets one say it: the yardstick
 * of the engine's benchmark. It makes the system calls that the bundle asks for and
 * checks what they return; it reads no configuration and undoes nothing.
 *
 *   bare run ROOTFS FILTER PROGRAM GROUP...
 *   bare exec PID FILTER PROGRAM GROUP...
 *
 * FILTER holds the compiled seccomp program, GROUP are directories to be made, one for
 * each mounted hierarchy, the one of v2 marked with a leading '+'.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include <grp.h>

#define CHECK(what)                                                  \
	do {                                                         \
		if ((long)(what) < 0) {                              \
			dprintf(2, "bare: %s: %m\n", #what);         \
			_exit(126);                                  \
		}                                                    \
	} while (0)

/* CAP_AUDIT_WRITE, CAP_KILL, CAP_NET_BIND_SERVICE: as in the bundle. */
#define CAPS ((1u << CAP_AUDIT_WRITE) | (1u << CAP_KILL) | (1u << CAP_NET_BIND_SERVICE))

static struct sock_filter instructions[4096];
static struct sock_fprog filter = { .filter = instructions };
static char *const environment[] = { "PATH=/usr/bin:/bin", "TERM=xterm", NULL };

static void read_filter(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd);
	ssize_t size = read(fd, instructions, sizeof(instructions));
	CHECK(size);
	filter.len = size / sizeof(instructions[0]);
	close(fd);
}

static int write_at(int dir, const char *name, const char *text)
{
	int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t done = write(fd, text, strlen(text));
	close(fd);
	return done < 0 ? -1 : 0;
}

/* A new cpuset is empty and admits nobody. */
static void copy_from_above(int dir, const char *name)
{
	char above[64], text[256];
	snprintf(above, sizeof(above), "../%s", name);
	int fd = openat(dir, above, O_RDONLY | O_CLOEXEC);
	CHECK(fd);
	ssize_t size = read(fd, text, sizeof(text) - 1);
	CHECK(size);
	text[size] = 0;
	close(fd);
	CHECK(write_at(dir, name, text));
}

static void set_devices(int dir)
{
	static const char *const allowed[] = {
		"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",
		"c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm",
	};
	CHECK(write_at(dir, "devices.deny", "a"));
	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
		CHECK(write_at(dir, "devices.allow", allowed[i]));
}

static int make_group(const char *path)
{
	CHECK(mkdir(path, 0755));
	int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(dir);
	if (strstr(path, "/cpuset/")) {
		copy_from_above(dir, "cpuset.cpus");
		copy_from_above(dir, "cpuset.mems");
	}
	if (strstr(path, "/devices/"))
		set_devices(dir);
	return dir;
}

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(fd);
	CHECK(ioctl(fd, SIOCSIFFLAGS, &request));
	close(fd);
}

static void node(const char *path, int minor, int major)
{
	CHECK(mknod(path, S_IFCHR | 0666, makedev(major, minor)));
}

static void mount_all(char **groups, int count)
{
	const unsigned long usual = MS_NOSUID | MS_NOEXEC | MS_NODEV;
	char path[256];
	CHECK(mount("proc", "proc", "proc", usual, NULL));
	CHECK(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
	CHECK(mkdir("dev/pts", 0755));
	CHECK(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		    "newinstance,ptmxmode=0666,mode=0620,gid=5"));
	CHECK(mkdir("dev/shm", 0755));
	CHECK(mount("shm", "dev/shm", "tmpfs", usual, "mode=1777,size=65536k"));
	CHECK(mkdir("dev/mqueue", 0755));
	CHECK(mount("mqueue", "dev/mqueue", "mqueue", usual, NULL));
	CHECK(mount("sysfs", "sys", "sysfs", usual | MS_RDONLY, NULL));
	CHECK(mount("tmpfs", "sys/fs/cgroup", "tmpfs", usual, "mode=755,size=64k"));
	for (int i = 0; i < count; i++) {
		/* .../HIERARCHY/BENCH/CONTAINER */
		int v2 = groups[i][0] == '+';
		const char *name = groups[i] + v2 + strlen("/sys/fs/cgroup/");
		int length = strchr(name, '/') - name;
		snprintf(path, sizeof(path), "sys/fs/cgroup/%.*s", length, name);
		CHECK(mkdir(path, 0755));
		char data[64];
		int named = !strncmp(name, "systemd", length);
		snprintf(data, sizeof(data), "%s%.*s", named ? "none,name=" : "", length, name);
		CHECK(mount("cgroup", path, v2 ? "cgroup2" : "cgroup", usual | MS_RDONLY,
			    v2 ? NULL : data));
	}
	CHECK(mount(NULL, "sys/fs/cgroup", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | usual, NULL));
	node("dev/null", 3, 1);
	node("dev/zero", 5, 1);
	node("dev/full", 7, 1);
	node("dev/random", 8, 1);
	node("dev/urandom", 9, 1);
	node("dev/tty", 0, 5);
	CHECK(symlink("/proc/self/fd", "dev/fd"));
	CHECK(symlink("/proc/self/fd/0", "dev/stdin"));
	CHECK(symlink("/proc/self/fd/1", "dev/stdout"));
	CHECK(symlink("/proc/self/fd/2", "dev/stderr"));
	CHECK(symlink("pts/ptmx", "dev/ptmx"));
}

static void cover(void)
{
	static const char *const masked[] = {
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
		"/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	};
	static const char *const readonly[] = {
		"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
	};
	struct stat found;
	for (size_t i = 0; i < sizeof(readonly) / sizeof(readonly[0]); i++) {
		if (stat(readonly[i], &found) < 0)
			continue;
		CHECK(mount(readonly[i], readonly[i], NULL, MS_BIND | MS_REC, NULL));
		CHECK(mount(NULL, readonly[i], NULL,
			    MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NODEV,
			    NULL));
	}
	for (size_t i = 0; i < sizeof(masked) / sizeof(masked[0]); i++) {
		if (stat(masked[i], &found) < 0)
			continue;
		if (S_ISDIR(found.st_mode))
			CHECK(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, "size=0"));
		else
			CHECK(mount("/dev/null", masked[i], NULL, MS_BIND, NULL));
	}
}

static void confine(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = {
		{ .effective = CAPS, .permitted = CAPS }, { 0 }
	};
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (cap > 31 || !(CAPS >> cap & 1))
			CHECK(prctl(PR_CAPBSET_DROP, cap, 0, 0, 0));
	CHECK(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
	CHECK(setgroups(0, NULL));
	CHECK(setresgid(0, 0, 0));
	CHECK(setresuid(0, 0, 0));
	CHECK(prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0));
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	CHECK(syscall(SYS_capset, &header, data));
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (filter.len)
		CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
}

static void init(const char *rootfs, char *program, char **groups, int *dirs, int count, int socket)
{
	struct rlimit files = { 1024, 1024 };
	char *const arguments[] = { program, NULL };
	char word = 'R';
	umask(0);
	CHECK(setsid());
	for (int i = 0; i < count; i++)
		if (groups[i][0] != '+')
			CHECK(write_at(dirs[i], "tasks", "0"));
	CHECK(unshare(CLONE_NEWCGROUP));
	loopback_up();
	CHECK(sethostname("bench", 5));
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	CHECK(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL));
	CHECK(chdir(rootfs));
	mount_all(groups, count);
	CHECK(syscall(SYS_pivot_root, ".", "."));
	CHECK(umount2(".", MNT_DETACH));
	CHECK(chdir("/"));
	cover();
	CHECK(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	CHECK(setrlimit(RLIMIT_NOFILE, &files));
	umask(022);
	CHECK(write(socket, &word, 1));
	if (read(socket, &word, 1) != 1)
		_exit(125);
	CHECK(syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC));
	confine();
	CHECK(execve(program, arguments, environment));
}

static int wait_for(pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run(int argc, char **argv)
{
	int count = argc - 3, dirs[32], sockets[2], pidfd = -1;
	char **groups = argv + 3;
	char word;
	struct clone_args args = {
		.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
			 | CLONE_PIDFD,
		.pidfd = (unsigned long)&pidfd,
		.exit_signal = SIGCHLD,
	};
	read_filter(argv[1]);
	for (int i = 0; i < count; i++) {
		int v2 = groups[i][0] == '+';
		dirs[i] = make_group(groups[i] + v2);
		if (v2) {
			args.flags |= CLONE_INTO_CGROUP;
			args.cgroup = dirs[i];
		}
	}
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets));
	pid_t pid = syscall(SYS_clone3, &args, sizeof(args));
	CHECK(pid);
	if (pid == 0) {
		close(sockets[0]);
		init(argv[0], argv[2], groups, dirs, count, sockets[1]);
	}
	close(sockets[1]);
	if (read(sockets[0], &word, 1) != 1)
		return 125;
	CHECK(write(sockets[0], "G", 1));
	int code = wait_for(pid);
	for (int i = 0; i < count; i++)
		/* Busy for a moment after the last process has gone. */
		for (int tries = 0; rmdir(groups[i] + (groups[i][0] == '+')) < 0; tries++) {
			if (errno != EBUSY || tries > 1000)
				CHECK(-1);
			usleep(200);
		}
	return code;
}

static int enter(int argc, char **argv)
{
	int count = argc - 3;
	char **groups = argv + 3;
	char *const arguments[] = { argv[2], NULL };
	struct clone_args args = { .exit_signal = SIGCHLD };
	read_filter(argv[1]);
	int pidfd = syscall(SYS_pidfd_open, atoi(argv[0]), 0);
	CHECK(pidfd);
	for (int i = 0; i < count; i++) {
		int v2 = groups[i][0] == '+';
		int dir = open(groups[i] + v2, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		CHECK(dir);
		if (v2) {
			args.flags |= CLONE_INTO_CGROUP;
			args.cgroup = dir;
		} else
			CHECK(write_at(dir, "tasks", "0"));
	}
	CHECK(setns(pidfd, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
				   | CLONE_NEWCGROUP));
	pid_t pid = syscall(SYS_clone3, &args, sizeof(args));
	CHECK(pid);
	if (pid)
		return wait_for(pid);
	CHECK(setsid());
	CHECK(syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC));
	confine();
	CHECK(execve(argv[2], arguments, environment));
	return 126;
}

int main(int argc, char **argv)
{
	if (argc > 5 && !strcmp(argv[1], "run"))
		return run(argc - 2, argv + 2);
	if (argc > 5 && !strcmp(argv[1], "exec"))
		return enter(argc - 2, argv + 2);
	dprintf(2, "usage: bare run ROOTFS FILTER PROGRAM GROUP...\n"
		   "       bare exec PID FILTER PROGRAM GROUP...\n");
	return 2;
}
