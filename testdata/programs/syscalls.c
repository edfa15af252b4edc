/*
 * syscalls SECONDS: spends its time in the kernel, reading from /dev/zero in
 * read_zeros and writing to /dev/full, which takes nothing, in write_nothing.
 * Both enter the kernel themselves, since libc's functions have no frame by
 * which a frame pointer walk finds their caller.
 */
#include <fcntl.h>
#include <sys/syscall.h>

#include "burn.h"

static inline __attribute__((always_inline)) long enter_kernel(long nr, long fd, void *buf, long size)
{
#if defined(__x86_64__)
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(nr), "D"(fd), "S"(buf), "d"(size)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = fd;
	register void *x1 __asm__("x1") = buf;
	register long x2 __asm__("x2") = size;
	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
#endif
}

static char buf[1 << 20];

KEPT void read_zeros(int fd)
{
	for (int i = 0; i < 16; i++)
		enter_kernel(SYS_read, fd, buf, sizeof(buf));
}

KEPT void write_nothing(int fd)
{
	for (int i = 0; i < 1024; i++)
		enter_kernel(SYS_write, fd, buf, sizeof(buf));
}

int main(int argc, char **argv)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + seconds_arg(argc, argv, 1);
	int zero = open("/dev/zero", O_RDONLY);
	int full = open("/dev/full", O_WRONLY);
	if (zero < 0 || full < 0) {
		perror("/dev/zero or /dev/full");
		return 1;
	}
	do {
		read_zeros(zero);
		write_nothing(full);
	} while (clock_ns(CLOCK_MONOTONIC) < end);
	return 0;
}
