/*
 * shares SECONDS: spends that much CPU time, 70 % in hot, 20 % in warm and
 * 10 % in cool, which spin calls in turn.
 */
#include "burn.h"

/*
 * Each burns up to a total of the thread's CPU time, so that what one takes
 * too long the next one has less, and errors do not add up.
 */
KEPT void hot(uint64_t end)
{
	burn_until(CLOCK_THREAD_CPUTIME_ID, end);
}

KEPT void warm(uint64_t end)
{
	burn_until(CLOCK_THREAD_CPUTIME_ID, end);
}

KEPT void cool(uint64_t end)
{
	burn_until(CLOCK_THREAD_CPUTIME_ID, end);
}

KEPT void spin(uint64_t ns)
{
	uint64_t start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	for (uint64_t t = start; t < start + ns; t += 100 * NS_PER_MS) {
		hot(t + 70 * NS_PER_MS);
		warm(t + 90 * NS_PER_MS);
		cool(t + 100 * NS_PER_MS);
	}
}

int main(int argc, char **argv)
{
	spin(seconds_arg(argc, argv, 1));
	return 0;
}
