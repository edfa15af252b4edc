package flamegraph

import (
	"testing"

	"hotframe/internal/frames"
)

func TestKindOf(t *testing.T) {
	tests := []struct {
		why  string
		in   frames.Frame
		want kind
	}{
		{"a walk that ended early", frames.Frame{Name: "[unknown: no frame pointer]"}, kindUnknown},
		{"the same within the kernel", frames.Frame{Name: "[unknown: kernel max depth]", Mapping: "[kernel.kallsyms]"}, kindUnknown},
		{"file without symbols", frames.Frame{Name: "[libfoo.so]", Mapping: "/usr/lib/libfoo.so"}, kindUnknown},
		{"address", frames.Frame{Name: "0x7f01"}, kindUnknown},
		{"name that only begins like an address", frames.Frame{Name: "0xdeadbeef_handler"}, kindNative},
		{"kernel", frames.Frame{Name: "vfs_read", Mapping: "[kernel.kallsyms]"}, kindKernel},
		{"Rust in the kernel is the kernel", frames.Frame{Name: "<a as b>::c", Mapping: "[kernel.kallsyms]"}, kindKernel},
		{"unnamed kernel code", frames.Frame{Name: "[kernel.kallsyms]", Mapping: "[kernel.kallsyms]"}, kindKernel},
		{"vDSO", frames.Frame{Name: "__vdso_clock_gettime", Mapping: "[vdso]"}, kindVDSO},
		{"perf map", frames.Frame{Name: "LazyCompile:*f a.js:1", Mapping: "/tmp/perf-12.map"}, kindJIT},
		{"Java in a perf map", frames.Frame{Name: "java.util.HashMap::get", Mapping: "/tmp/perf-12.map"}, kindJIT},
		{"run-time compiled without a map", frames.Frame{Name: "[unknown: unmapped]", Mapping: "//anon"}, kindUnknown},
		{"anonymous memory", frames.Frame{Name: "x", Mapping: "//anon"}, kindJIT},
		{"Python trampoline", frames.Frame{Name: "py::main:/a/b.py", Mapping: "/tmp/perf-12.map"}, kindScript},
		{"Python by its source", frames.Frame{Name: "main", Source: "/a/b.py"}, kindScript},
		{"Java by its source", frames.Frame{Name: "a.b.C.d", Source: "C.java"}, kindJIT},
		{"Go by its source", frames.Frame{Name: "memclr", Source: "/go/src/runtime/m.go"}, kindGo},
		{"C++ header", frames.Frame{Name: "size", Source: "v.hpp"}, kindCPP},
		{"a C header says nothing, the name does", frames.Frame{Name: "std::size", Source: "v.h"}, kindCPP},
		{"Go", frames.Frame{Name: "runtime.mallocgc", Mapping: "/bin/app"}, kindGo},
		{"Go method", frames.Frame{Name: "example.org/a/b.(*T).M", Mapping: "/bin/app"}, kindGo},
		{"Go closure", frames.Frame{Name: "main.main.func1", Mapping: "/bin/app"}, kindGo},
		{"Go generics", frames.Frame{Name: "slices.Sort[go.shape.[]string,go.shape.string]", Mapping: "/bin/app"}, kindGo},
		{"GCC's copies are not Go", frames.Frame{Name: "parse.isra.0.cold", Mapping: "/bin/app"}, kindNative},
		{"LLVM's copies are not Go", frames.Frame{Name: "parse.llvm.1234", Mapping: "/bin/app"}, kindNative},
		{"symbol versions are not Go", frames.Frame{Name: "memcpy@@GLIBC_2.14", Mapping: "/bin/app"}, kindNative},
		{"dots in a library are not Go", frames.Frame{Name: "x.y", Mapping: "/lib/libx.so.1"}, kindNative},
		{"C", frames.Frame{Name: "main", Mapping: "/bin/app"}, kindNative},
		{"C++", frames.Frame{Name: "ns::T<int>::f(int)", Mapping: "/bin/app"}, kindCPP},
		{"C++ without a namespace", frames.Frame{Name: "f(int)", Mapping: "/bin/app"}, kindCPP},
		{"C++ mangled", frames.Frame{Name: "_ZN1a1bEv"}, kindCPP},
		{"Rust trait", frames.Frame{Name: "<a::B as c::D>::e", Mapping: "/bin/app"}, kindRust},
		{"Rust closure", frames.Frame{Name: "a::b::{{closure}}", Mapping: "/bin/app"}, kindRust},
		{"Rust legacy hash", frames.Frame{Name: "a::b::h0123456789abcdef", Mapping: "/bin/app"}, kindRust},
		{"Rust's libraries", frames.Frame{Name: "core::iter::next", Mapping: "/bin/app"}, kindRust},
		{"hostile", frames.Frame{Name: "]]></script>\x00"}, kindNative},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			if got := kindOf(tt.in); got != tt.want {
				t.Errorf("kindOf(%q) = %s, want %s", tt.in, kindWord[got], kindWord[tt.want])
			}
		})
	}
}
