package flamegraph

import (
	"path"
	"strings"
	"unicode"

	"hotframe/internal/frames"
)

// A kind is what sort of code a frame is; it chooses the hue. The words are
// shown to users. The numbers are written into payloads only beside their
// words, so they may change.
type kind uint8

const (
	kindUnknown kind = iota // [unknown: ...], [libfoo.so], bare addresses
	kindProcess             // the root and the comm level
	kindKernel
	kindVDSO
	kindNative // compiled, in C or not recognized
	kindCPP
	kindRust
	kindGo
	kindJIT    // compiled at run time: Java, Node, .NET
	kindScript // interpreted: Python, Ruby, PHP
	kindCount
)

var kindWord = [kindCount]string{
	kindUnknown: "unnamed",
	kindProcess: "process",
	kindKernel:  "kernel",
	kindVDSO:    "vDSO",
	kindNative:  "native",
	kindCPP:     "C++",
	kindRust:    "Rust",
	kindGo:      "Go",
	kindJIT:     "JIT",
	kindScript:  "script",
}

var kindOfExt = map[string]kind{
	".go": kindGo,
	".rs": kindRust,
	".cc": kindCPP, ".cpp": kindCPP, ".cxx": kindCPP, ".c++": kindCPP, ".hpp": kindCPP, ".hh": kindCPP, ".C": kindCPP,
	".java": kindJIT, ".kt": kindJIT, ".scala": kindJIT, ".cs": kindJIT, ".js": kindJIT, ".mjs": kindJIT, ".ts": kindJIT,
	".py": kindScript, ".pyx": kindScript, ".rb": kindScript, ".php": kindScript, ".pl": kindScript, ".lua": kindScript,
}

// kindOf derives the kind from what surely tells, then from what likely does:
// the mapping, the source file's extension, the shape of the name.
func kindOf(f frames.Frame) kind {
	switch {
	case strings.HasPrefix(f.Name, "[unknown"):
		return kindUnknown
	case f.Kernel():
		return kindKernel
	case f.Mapping == "[vdso]" || f.Mapping == "[vsyscall]":
		return kindVDSO
	case strings.HasPrefix(f.Name, "[") && strings.HasSuffix(f.Name, "]"), isAddress(f.Name):
		return kindUnknown
	case strings.HasPrefix(f.Name, "py::"): // CPython 3.12 perf trampolines
		return kindScript
	case isRuntimeCode(f.Mapping):
		return kindJIT
	}
	if k, ok := kindOfExt[path.Ext(f.Source)]; ok {
		return k
	}
	return kindOfName(f.Name, path.Base(f.Mapping))
}

func isAddress(name string) bool {
	digits, ok := strings.CutPrefix(name, "0x")
	return ok && digits != "" && strings.Trim(digits, "0123456789abcdef") == ""
}

// isRuntimeCode knows the mappings that hold code compiled at run time.
func isRuntimeCode(mapping string) bool {
	base := path.Base(mapping)
	return strings.HasPrefix(base, "perf-") && strings.HasSuffix(base, ".map") ||
		strings.HasPrefix(base, "jitted-") || // perf inject --jit
		strings.HasPrefix(mapping, "//anon") || strings.HasPrefix(mapping, "[anon") ||
		strings.HasPrefix(mapping, "/memfd:doublemapper") // .NET; other memfds mostly hold programs
}

// kindOfName tells languages by how their linker names read once demangled.
func kindOfName(name, mapping string) kind {
	switch {
	case strings.HasPrefix(name, "<") && strings.Contains(name, " as "),
		strings.Contains(name, "::{{"), strings.Contains(name, "::{closure"), strings.Contains(name, "::{impl"),
		hasRustHash(name), hasAnyPrefix(name, "core::", "alloc::", "std::rt::", "std::sys::", "std::panicking::"):
		return kindRust
	case strings.Contains(name, "::"), hasAnyPrefix(name, "operator", "non-virtual thunk", "vtable for "),
		strings.HasPrefix(name, "_Z"):
		return kindCPP
	case strings.Contains(name, ".(*"), hasAnyPrefix(name, "type:.", "go:"):
		return kindGo
	case !strings.Contains(mapping, ".so") && isGoName(trimCompilerSuffix(name)):
		return kindGo
	case strings.HasSuffix(name, ")") && strings.Contains(name, "("):
		return kindCPP // C has no arguments in its names
	}
	return kindNative
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// hasRustHash knows the end of Rust's legacy mangling, "::h" and 16 hex digits.
func hasRustHash(name string) bool {
	i := len(name) - 19
	return i > 0 && name[i:i+3] == "::h" && strings.Trim(name[i+3:], "0123456789abcdef") == ""
}

// isGoName accepts PACKAGE.NAME where the last element of PACKAGE and NAME are
// identifiers, as in "runtime.mallocgc" and "example.org/x/y.F[...]".
func isGoName(name string) bool {
	name = name[strings.LastIndexByte(name, '/')+1:]
	pkg, rest, ok := strings.Cut(name, ".")
	if !ok || pkg == "" || rest == "" || strings.ContainsAny(name, "@ $:") {
		return false
	}
	return identifierStart(pkg) && identifierStart(rest)
}

func identifierStart(s string) bool {
	for _, r := range s {
		return r == '_' || unicode.IsLetter(r)
	}
	return false
}

// trimCompilerSuffix removes what GCC and LLVM append to the names of copies
// of a function, as in "f.isra.0.cold".
func trimCompilerSuffix(name string) string {
	for _, s := range []string{".cold", ".isra.", ".part.", ".constprop.", ".llvm.", ".lto_priv.", ".localalias"} {
		if i := strings.Index(name, s); i > 0 {
			name = name[:i]
		}
	}
	return name
}
