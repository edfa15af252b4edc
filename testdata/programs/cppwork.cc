// cppwork SECONDS: burns CPU time in functions whose names need demangling:
// namespaces, templates, operators, a lambda and an unnamed namespace.
#include <array>
#include <cstdint>
#include <string>

#include "burn.h"

namespace shop
{
namespace
{
KEPT void unnamed(std::uint64_t end)
{
	burn_until(CLOCK_MONOTONIC, end);
}
}

template <typename T, unsigned N> struct Cart {
	std::array<T, N> items;

	KEPT void total(std::uint64_t end) const
	{
		burn_until(CLOCK_MONOTONIC, end);
	}

	KEPT Cart &operator+=(std::uint64_t end)
	{
		burn_until(CLOCK_MONOTONIC, end);
		return *this;
	}
};

template <typename F> KEPT void apply(F f, std::uint64_t end)
{
	f(end);
	NO_TAIL_CALL;
}
}

int main(int argc, char **argv)
{
	std::uint64_t now = clock_ns(CLOCK_MONOTONIC), end = now + seconds_arg(argc, argv, 1);
	shop::Cart<std::string, 3> cart;
	while ((now = clock_ns(CLOCK_MONOTONIC)) < end) {
		cart.total(now + 5 * NS_PER_MS);
		cart += now + 10 * NS_PER_MS;
		shop::unnamed(now + 15 * NS_PER_MS);
		shop::apply([](std::uint64_t end) __attribute__((noinline)) { burn_until(CLOCK_MONOTONIC, end); }, now + 20 * NS_PER_MS);
	}
	return 0;
}
