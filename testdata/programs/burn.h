/* What the test programs share: ways to spend CPU time in a given function. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Keeps a function in the binary under its name. */
#define KEPT __attribute__((noinline, noclone))

/* Behind a call: keeps it from becoming a jump, which would leave no frame. */
#define NO_TAIL_CALL __asm__ volatile("")

#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000ull

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/*
 * Burns CPU time in the function that it is written in, until clock shows end.
 * It looks at the clock every 0.1 ms or so: often enough for a millisecond,
 * seldom enough that next to no time is spent in reading it.
 */
static inline __attribute__((always_inline)) void burn_until(clockid_t clock, uint64_t end)
{
	uint64_t x = 1;
	do {
		for (int i = 0; i < 60000; i++) {
			x = x * 6364136223846793005u + 1442695040888963407u;
			__asm__ volatile("" : "+r"(x));
		}
	} while (clock_ns(clock) < end);
}

/* The argument at index i, in seconds, as ns. */
static inline uint64_t seconds_arg(int argc, char **argv, int i)
{
	char *end;
	double s = i < argc ? strtod(argv[i], &end) : -1;
	if (i >= argc || *end != '\0' || end == argv[i] || !(s >= 0 && s < 1e6)) {
		fprintf(stderr, "%s: argument %d is no number of seconds\n", argv[0], i);
		exit(2);
	}
	return (uint64_t)(s * 1e9);
}
