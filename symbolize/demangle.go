package symbolize

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ianlancetaylor/demangle"
)

// demangler turns linker names into what their authors wrote. Template
// arguments stay, since they tell instantiations apart; parameters, return
// types, clone suffixes and Rust's hashes go.
type demangler struct {
	memo map[string]string
	size int // of memo, in bytes of names
	made int // bytes of names since the last reset
}

const (
	maxMemo         = 8 << 20  // bytes; then it starts over
	maxDemangled    = 64 << 20 // bytes of names in one profile; then they stay mangled
	maxDemangledLog = 14       // 16 KiB: a few bytes of mangled name may stand for gigabytes
)

// reset begins a profile.
func (d *demangler) reset() { d.made = 0 }

func (d *demangler) name(mangled string) string {
	if !strings.HasPrefix(mangled, "_Z") && !strings.HasPrefix(mangled, "_R") {
		return withoutVersion(mangled)
	}
	name, ok := d.memo[mangled]
	if ok {
		return name
	}
	if d.made > maxDemangled {
		return mangled
	}
	name = demangled(withoutVersion(mangled))
	d.made += len(name)
	if d.size += len(mangled) + len(name); d.memo == nil || d.size > maxMemo {
		d.memo, d.size = make(map[string]string), len(mangled)+len(name)
	}
	d.memo[mangled] = name
	return name
}

// demangled is name itself where it is no mangled name or not understood.
func demangled(name string) (result string) {
	defer func() {
		if recover() != nil { // the name is hostile
			result = name
		}
	}()
	return demangle.Filter(name, demangle.NoParams, demangle.NoEnclosingParams, demangle.MaxLength(maxDemangledLog))
}

// withoutVersion cuts the symbol version that linkers append in .symtab, as in
// memcpy@@GLIBC_2.14.
func withoutVersion(name string) string {
	if i := strings.Index(name, "@"); i > 0 {
		return name[:i]
	}
	return name
}

// cleanName makes a name valid UTF-8 without control characters. Outputs
// escape it further as they need.
func cleanName(name string) string {
	for i := 0; i < len(name); i++ {
		if name[i] < ' ' || name[i] >= 0x7f {
			return replaceControls(name)
		}
	}
	return name
}

func replaceControls(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r // RuneError for invalid bytes
	}, name)
}
