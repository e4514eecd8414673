/* The process: ids, capabilities, limits, environment, descriptors, namespaces, keys. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "probe.h"

extern char **environ;

static void show_lines(const char *path, const char *const *wanted)
{
	char line[8192];
	FILE *file = fopen(path, "re");
	if (!file) {
		fprintf(out, "%s %s\n", path, errno_name(errno));
		return;
	}
	while (fgets(line, sizeof(line), file)) {
		int show = !wanted;
		for (int i = 0; wanted && wanted[i]; i++)
			show |= !strncmp(line, wanted[i], strlen(wanted[i]));
		if (show)
			fputs(line, out);
	}
	fclose(file);
}

static void show_link(const char *name, const char *path)
{
	char target[4096];
	ssize_t length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		fprintf(out, "%s %s\n", name, errno_name(errno));
	else
		fprintf(out, "%s %.*s\n", name, (int)length, target);
}

static void show_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	if (!dir) {
		fprintf(out, "/proc/self/fd %s\n", errno_name(errno));
		return;
	}
	while ((entry = readdir(dir))) {
		int fd = atoi(entry->d_name);
		char path[64], name[64];
		struct stat stat;
		if (entry->d_name[0] == '.' || fd == dirfd(dir) || fstat(fd, &stat) < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		const char *kind = S_ISFIFO(stat.st_mode) ? "pipe"
			: S_ISSOCK(stat.st_mode)	  ? "socket"
			: S_ISCHR(stat.st_mode)		  ? "character device"
			: S_ISDIR(stat.st_mode)		  ? "directory"
							  : "file";
		snprintf(name, sizeof(name), "%d %s", fd, kind);
		if (S_ISCHR(stat.st_mode))
			fprintf(out, "%s %u:%u\n", name, major(stat.st_rdev), minor(stat.st_rdev));
		else if (S_ISFIFO(stat.st_mode) || S_ISSOCK(stat.st_mode))
			fprintf(out, "%s\n", name);
		else
			show_link(name, path);
	}
	closedir(dir);
}

static void show_keys(void)
{
	char text[512];
	long serial = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
	if (serial < 0) {
		fprintf(out, "session keyring: %s\n", errno_name(errno));
		return;
	}
	long length = syscall(SYS_keyctl, KEYCTL_DESCRIBE, serial, text, sizeof(text) - 1);
	if (length < 0)
		fprintf(out, "session keyring: %s\n", errno_name(errno));
	else
		fprintf(out, "session keyring: %.*s\n", (int)length, text);
	length = syscall(SYS_keyctl, KEYCTL_READ, serial, text, sizeof(text));
	if (length < 0)
		fprintf(out, "keys in it: %s\n", errno_name(errno));
	else
		fprintf(out, "keys in it: %ld\n", length / 4);
}

void show_process(void)
{
	static const char *const status[] = { "Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:",
		"CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:", "Umask:", NULL };
	static const char *const namespaces[] = { "cgroup", "ipc", "mnt", "net", "pid", "time",
		"user", "uts" };
	static const char *const limits[] = { "cpu", "fsize", "data", "stack", "core", "rss",
		"nproc", "nofile", "memlock", "as", "locks", "sigpending", "msgqueue", "nice",
		"rtprio", "rttime" };
	char text[256];

	fprintf(out, "[process]\n");
	show_lines("/proc/self/status", status);
	fprintf(out, "pid: %d\nparent: %d\n", getpid(), getppid());
	fprintf(out, "leads its session: %s\n", getsid(0) == getpid() ? "yes" : "no");
	int terminal = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	fprintf(out, "controlling terminal: %s\n", terminal < 0 ? errno_name(errno) : "yes");
	if (terminal >= 0)
		close(terminal);
	fprintf(out, "dumpable: %d\n", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
	fprintf(out, "secure bits: %d\n", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
	fprintf(out, "personality: %x\n", personality(0xffffffff));
	fprintf(out, "policy: %d\nnice: %d\n", sched_getscheduler(0), getpriority(PRIO_PROCESS, 0));
	fprintf(out, "oom_score_adj: ");
	show_lines("/proc/self/oom_score_adj", NULL);
	show_link("cwd:", "/proc/self/cwd");
	show_link("exe:", "/proc/self/exe");
	fprintf(out, "host name: %s\n", gethostname(text, sizeof(text)) ? "?" : text);

	fprintf(out, "[descriptors]\n");
	show_descriptors();

	fprintf(out, "[limits]\n");
	for (int i = 0; i < 16; i++) {
		struct rlimit limit;
		getrlimit(i, &limit);
		fprintf(out, "%s %lld %lld\n", limits[i], (long long)limit.rlim_cur,
			(long long)limit.rlim_max);
	}

	fprintf(out, "[environment]\n");
	for (char **pair = environ; *pair; pair++)
		fprintf(out, "%s\n", *pair);

	fprintf(out, "[namespaces]\n");
	for (size_t i = 0; i < sizeof(namespaces) / sizeof(namespaces[0]); i++) {
		snprintf(text, sizeof(text), "/proc/self/ns/%s", namespaces[i]);
		show_link(namespaces[i], text);
	}
	fprintf(out, "users: ");
	show_lines("/proc/self/uid_map", NULL);
	fprintf(out, "setgroups: ");
	show_lines("/proc/self/setgroups", NULL);

	fprintf(out, "[groups]\n");
	show_lines("/proc/self/cgroup", NULL);

	fprintf(out, "[keys]\n");
	show_keys();
}
