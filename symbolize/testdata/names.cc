// Functions whose symbols differ in kind: templates, namespaces, operators,
// lambdas, weak and aliased ones, and one from assembly without a type.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

namespace shapes {
template <typename T> struct Box {
	T value;
	__attribute__((noinline)) T twice(int times) const {
		T v = value;
		for (int i = 0; i < times; i++)
			v = v + value;
		return v;
	}
	__attribute__((noinline)) bool operator<(const Box &o) const { return value < o.value; }
};

namespace {
__attribute__((noinline)) int hidden(std::vector<Box<int>> &v) {
	std::sort(v.begin(), v.end(), [](const Box<int> &a, const Box<int> &b) { return b < a; });
	return v.front().value;
}
}  // namespace

int visible(std::vector<Box<int>> &v) { return hidden(v); }
}  // namespace shapes

extern "C" {
__attribute__((noinline)) int aliased(int x) { return x * 3; }
int __other_name(int) __attribute__((alias("aliased")));
__attribute__((weak)) int weak_one(int x) { return x + 5; }
}

asm(".text\n"
    ".globl untyped\n"
    "untyped:\n"
    "nop\nnop\nnop\nret\n"
    ".size untyped, .-untyped\n"
    ".type unsized, @function\n"
    "unsized:\n"
    "nop\nnop\nret\n");

int main(int argc, char **argv) {
	std::vector<shapes::Box<int>> v{{argc}, {2}, {3}};
	shapes::Box<std::string> s{argv[0]};
	std::printf("%d %s %d %d\n", shapes::visible(v), s.twice(2).c_str(), aliased(argc), weak_one(argc));
	return 0;
}
