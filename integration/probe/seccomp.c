/*
 * What the container's filter says to every system call of every ABI, without making one.
 *
 * The prober adds a filter of its own that hands calls with a mark in their fifth
 * argument to its parent, which answers them. The kernel obeys the strictest filter: a
 * refusal of the container's comes first, and only what that lets through is handed over.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

#define MARK 0x7072
/* No errno of the kernel's. */
#define HANDED_OVER 1999
#define LAST 600
#define X32 0x40000000

enum abi { NATIVE, ABI_X32, ABI_I386 };
static const char *const abi_names[] = { "native", "x32", "i386" };

struct probe {
	enum abi abi;
	unsigned number;
	unsigned long argument;
	const char *label;
};

static struct probe probes[4096];
static int count;

static struct shared {
	volatile int next, listener, failed;
	volatile int results[4096];
} *shared;

static void add(enum abi abi, unsigned number, unsigned long argument, const char *label)
{
	probes[count++] = (struct probe){ abi, number, argument, label };
}

static void list_probes(void)
{
	for (unsigned number = 0; number <= LAST; number++) {
#ifdef __x86_64__
		/* uretprobe and uprobe, which newer kernels answer before any filter. */
		if (number == 335 || number == 336)
			continue;
#endif
		add(NATIVE, number, 0, NULL);
	}
#ifdef __x86_64__
	for (unsigned number = 0; number <= LAST; number++)
		add(ABI_X32, X32 | number, 0, NULL);
	for (unsigned number = 0; number <= LAST; number++)
		add(ABI_I386, number, 0, NULL);
	for (unsigned family = 0; family <= 45; family++)
		add(ABI_I386, 359, family, "socket");
	add(ABI_I386, 102, 1, "socketcall");
#endif
	for (unsigned family = 0; family <= 45; family++)
		add(NATIVE, SYS_socket, family, "socket");
	static const unsigned long namespaces[] = { 0x80, 0x20000, 0x2000000, 0x4000000,
		0x8000000, 0x10000000, 0x20000000, 0x40000000 };
	for (size_t i = 0; i < sizeof(namespaces) / sizeof(namespaces[0]); i++) {
		add(NATIVE, SYS_clone, namespaces[i], "clone");
#ifdef __x86_64__
		add(ABI_I386, 120, namespaces[i], "clone");
#endif
	}
	static const unsigned long domains[] = { 0, 8, 0x20000, 0x20008, 0xffffffff, 0x40000,
		0x400000 };
	for (size_t i = 0; i < sizeof(domains) / sizeof(domains[0]); i++)
		add(NATIVE, SYS_personality, domains[i], "personality");
}

static int call(const struct probe *probe)
{
#ifdef __x86_64__
	if (probe->abi == ABI_I386) {
		int result;
		__asm__ volatile("int $0x80"
				 : "=a"(result)
				 : "a"(probe->number), "b"(probe->argument), "c"(0), "d"(0), "S"(0),
				   "D"(MARK)
				 : "memory", "r8", "r9", "r10", "r11");
		return result;
	}
	long result;
	register long fifth __asm__("r8") = MARK;
	register long fourth __asm__("r10") = 0;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"((long)probe->number), "D"(probe->argument), "S"(0L), "d"(0L),
			   "r"(fourth), "r"(fifth)
			 : "rcx", "r11", "memory");
	return result;
#else
	long result = syscall(probe->number, probe->argument, 0, 0, 0, MARK, 0);
	return result < 0 ? -errno : result;
#endif
}

static void probe_all(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[4])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MARK, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { 4, code };
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	int listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			       SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	if (listener < 0) {
		shared->failed = errno;
		_exit(1);
	}
	shared->listener = listener;
	while (shared->next < count) {
		int at = shared->next;
		shared->results[at] = call(&probes[at]);
		shared->next = at + 1;
	}
	_exit(0);
}

static void answer(int listener)
{
	struct seccomp_notif request;
	struct seccomp_notif_resp response;
	memset(&request, 0, sizeof(request));
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0)
		return;
	memset(&response, 0, sizeof(response));
	response.id = request.id;
	response.error = -HANDED_OVER;
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

/* One prober, until it ends or is killed; how it ended. */
static int supervise(void)
{
	int status;
	shared->listener = -1;
	/* One table of descriptors, so that the listener is here, too. */
	pid_t pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		probe_all();
	for (;;) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			break;
		if (shared->listener < 0) {
			sched_yield();
			continue;
		}
		struct pollfd ready = { shared->listener, POLLIN, 0 };
		if (poll(&ready, 1, 100) > 0 && ready.revents & POLLIN)
			answer(shared->listener);
	}
	if (shared->listener >= 0)
		close(shared->listener);
	return status;
}

void show_seccomp(void)
{
	fprintf(out, "[seccomp]\n");
	list_probes();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	while (shared->next < count) {
		int status = supervise();
		if (shared->failed) {
			fprintf(out, "cannot be probed: %s\n", errno_name(shared->failed));
			return;
		}
		if (WIFSIGNALED(status)) {
			/* Beyond any result that a call can have. */
			shared->results[shared->next] = 10000 + WTERMSIG(status);
			shared->next++;
		}
	}
	for (int i = 0; i < count; i++) {
		int result = shared->results[i];
		fprintf(out, "%s %u ", abi_names[probes[i].abi], probes[i].number & ~X32);
		if (probes[i].label)
			fprintf(out, "%s(0x%lx) ", probes[i].label, probes[i].argument);
		if (result == -HANDED_OVER)
			fprintf(out, "allowed\n");
		else if (result >= 10000)
			fprintf(out, "killed by signal %d\n", result - 10000);
		else
			fprintf(out, "%s\n", errno_name(-result));
	}
}
