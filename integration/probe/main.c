/*
 * Prints what a container really has, seen from inside and asked from the kernel.
 *
 *   probe FILE [hold]
 *
 * writes to FILE and, with "hold", waits for ever afterwards. It changes nothing but a
 * node in /dev, which it removes, and calls nothing that would do harm where it is allowed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probe.h"

FILE *out;

const char *errno_name(int number)
{
	static char text[16];
	switch (number) {
	case 0: return "ok";
	case EPERM: return "EPERM";
	case ENOENT: return "ENOENT";
	case EACCES: return "EACCES";
	case ENOSYS: return "ENOSYS";
	case EROFS: return "EROFS";
	case ENXIO: return "ENXIO";
	case ENODEV: return "ENODEV";
	case EINVAL: return "EINVAL";
	case EEXIST: return "EEXIST";
	case ENOKEY: return "ENOKEY";
	case EBUSY: return "EBUSY";
	}
	snprintf(text, sizeof(text), "errno %d", number);
	return text;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		dprintf(2, "usage: probe FILE [hold]\n");
		return 2;
	}
	/* Descriptors first: the output is none that the container was given. */
	char *text = NULL;
	size_t size = 0;
	out = open_memstream(&text, &size);
	if (!out)
		return 1;
	show_process();
	show_files();
	show_seccomp();
	fclose(out);
	char temporary[4096];
	snprintf(temporary, sizeof(temporary), "%s.new", argv[1]);
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, size) != (ssize_t)size || rename(temporary, argv[1]) < 0) {
		dprintf(2, "probe: %s: %m\n", argv[1]);
		return 1;
	}
	close(fd);
	if (argc > 2 && !strcmp(argv[2], "hold"))
		for (;;)
			pause();
	return 0;
}
