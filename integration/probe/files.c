/* Mounts, masks, devices, and what can be written. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "probe.h"

static int compare(const struct dirent **one, const struct dirent **other)
{
	return strcmp((*one)->d_name, (*other)->d_name);
}

static void show_mounts(void)
{
	char line[16384];
	FILE *file = fopen("/proc/self/mountinfo", "re");
	while (file && fgets(line, sizeof(line), file))
		fputs(line, out);
	if (file)
		fclose(file);
}

/* What somebody reads there: nothing, or something of the kernel's. */
static const char *look(const char *path)
{
	struct stat stat;
	if (lstat(path, &stat) < 0)
		return "hidden";
	if (S_ISDIR(stat.st_mode)) {
		DIR *dir = opendir(path);
		int entries = 0;
		while (dir && readdir(dir))
			entries++;
		if (dir)
			closedir(dir);
		return entries > 2 ? "visible" : "hidden";
	}
	if (S_ISCHR(stat.st_mode) && stat.st_rdev == makedev(1, 3))
		return "hidden";
	return "visible";
}

static void show_masks(void)
{
	static const char *const paths[] = { "/proc/acpi", "/proc/asound", "/proc/interrupts",
		"/proc/kcore", "/proc/keys", "/proc/kmsg", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware", "/sys/kernel/debug",
		"/sys/kernel/security", "/sys/kernel/tracing" };
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		fprintf(out, "%s %s\n", paths[i], look(paths[i]));
}

static const char *writable(const char *path)
{
	if (access(path, W_OK) == 0)
		return "writable";
	return errno == ENOENT ? "absent" : errno_name(errno);
}

static void show_writable(void)
{
	static const char *const paths[] = { "/", "/etc/hosts", "/etc/hostname",
		"/etc/resolv.conf", "/tmp", "/dev", "/dev/shm", "/dev/mqueue", "/proc/bus",
		"/proc/fs", "/proc/irq", "/proc/sys", "/proc/sys/kernel/core_pattern",
		"/proc/sys/kernel/domainname", "/proc/sys/kernel/shmmax", "/proc/sys/net/ipv4/ip_forward",
		"/proc/sys/vm/swappiness", "/proc/sys/fs/mqueue/msg_max", "/proc/sysrq-trigger",
		"/proc/self/oom_score_adj", "/sys", "/sys/kernel", "/sys/power", "/sys/fs/cgroup",
		"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
		"/sys/fs/cgroup/devices/devices.allow", "/sys/fs/cgroup/unified/cgroup.procs",
		"/sys/fs/cgroup/memory/release_agent" };
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		fprintf(out, "%s %s\n", paths[i], writable(paths[i]));
	/* And what nobody has thought of. */
	struct dirent **entries;
	int count = scandir("/proc", &entries, NULL, compare);
	for (int i = 0; i < count; i++) {
		char path[512];
		struct stat stat;
		snprintf(path, sizeof(path), "/proc/%s", entries[i]->d_name);
		if (entries[i]->d_name[0] > '9' && lstat(path, &stat) == 0
		    && !S_ISLNK(stat.st_mode) && !S_ISCHR(stat.st_mode) && access(path, W_OK) == 0
		    && stat.st_mode & 0222)
			fprintf(out, "%s writable\n", path);
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
}

static void show_devices(const char *directory)
{
	struct dirent **entries;
	int count = scandir(directory, &entries, NULL, compare);
	for (int i = 0; i < count; i++) {
		const char *name = entries[i]->d_name;
		char path[1024], target[256];
		struct stat stat;
		snprintf(path, sizeof(path), "%s/%s", directory, name);
		if (!strcmp(name, ".") || !strcmp(name, "..") || lstat(path, &stat) < 0)
			goto next;
		fprintf(out, "%s ", path);
		ssize_t length = readlink(path, target, sizeof(target));
		if (length >= 0)
			fprintf(out, "-> %.*s\n", (int)length, target);
		else if (S_ISCHR(stat.st_mode) || S_ISBLK(stat.st_mode))
			fprintf(out, "%c %u:%u %o %u:%u\n", S_ISCHR(stat.st_mode) ? 'c' : 'b',
				major(stat.st_rdev), minor(stat.st_rdev), stat.st_mode & 07777,
				stat.st_uid, stat.st_gid);
		else
			fprintf(out, "%s %o %u:%u\n", S_ISDIR(stat.st_mode) ? "directory" : "file",
				stat.st_mode & 07777, stat.st_uid, stat.st_gid);
		if (S_ISDIR(stat.st_mode) && strcmp(path, "/dev/shm") && strcmp(path, "/dev/mqueue"))
			show_devices(path);
next:
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
}

/* Whether nodes can be made, and then opened: what the control group allows. */
static void show_access(void)
{
	static const struct {
		const char *name;
		mode_t kind;
		int major, minor;
	} nodes[] = {
		{ "null", S_IFCHR, 1, 3 }, { "zero", S_IFCHR, 1, 5 }, { "full", S_IFCHR, 1, 7 },
		{ "random", S_IFCHR, 1, 8 }, { "urandom", S_IFCHR, 1, 9 }, { "mem", S_IFCHR, 1, 1 },
		{ "kmsg", S_IFCHR, 1, 11 }, { "ptmx", S_IFCHR, 5, 2 }, { "fuse", S_IFCHR, 10, 229 },
		{ "tun", S_IFCHR, 10, 200 }, { "loop-control", S_IFCHR, 10, 237 },
		{ "loop0", S_IFBLK, 7, 0 }, { "sda", S_IFBLK, 8, 0 },
	};
	for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++) {
		int flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
		unlink("/dev/.probe");
		int made = mknod("/dev/.probe", nodes[i].kind | 0600,
				 makedev(nodes[i].major, nodes[i].minor));
		fprintf(out, "%s made: %s", nodes[i].name, errno_name(made < 0 ? errno : 0));
		if (made == 0) {
			int fd = open("/dev/.probe", flags);
			fprintf(out, ", opened: %s", errno_name(fd < 0 ? errno : 0));
			if (fd >= 0)
				close(fd);
		}
		fprintf(out, "\n");
	}
	unlink("/dev/.probe");
}

void show_files(void)
{
	fprintf(out, "[mounts]\n");
	show_mounts();
	fprintf(out, "[masks]\n");
	show_masks();
	fprintf(out, "[write access]\n");
	show_writable();
	fprintf(out, "[devices]\n");
	show_devices("/dev");
	fprintf(out, "[device access]\n");
	show_access();
}
