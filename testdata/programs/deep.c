/*
 * deep DEPTH SECONDS: burns CPU time in bottom, which DEPTH calls of recurse
 * lie above.
 */
#include "burn.h"

KEPT void bottom(uint64_t end)
{
	burn_until(CLOCK_MONOTONIC, end);
}

KEPT void recurse(unsigned long depth, uint64_t end)
{
	if (depth > 1)
		recurse(depth - 1, end);
	else
		bottom(end);
	NO_TAIL_CALL;
}

int main(int argc, char **argv)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + seconds_arg(argc, argv, 2);
	unsigned long depth = strtoul(argv[1], NULL, 10);
	if (depth < 1 || depth > 50000) {
		fprintf(stderr, "deep: depth is not in 1..50000\n");
		return 2;
	}
	recurse(depth, end);
	return 0;
}
