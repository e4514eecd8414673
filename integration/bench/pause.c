/* Waits for SIGTERM and obeys it: the pods' and the containers' process in the benchmark. */
#include <signal.h>
#include <unistd.h>

static void end(int signal) {
	(void)signal;
	_exit(0);
}

int main(void) {
	signal(SIGTERM, end);
	signal(SIGINT, end);
	for (;;)
		pause();
}
