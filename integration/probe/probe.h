#ifndef PROBE_H
#define PROBE_H

#include <stdio.h>

/* Everything is written as "[section]" and lines; the reader makes it comparable. */
extern FILE *out;

void show_process(void);
void show_files(void);
void show_seccomp(void);

/* "EPERM" and its like, or a number. */
const char *errno_name(int number);

#endif
