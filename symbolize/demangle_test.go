package symbolize

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestDemangle(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"C", "malloc", "malloc"},
		{"C with a symbol version", "memcpy@@GLIBC_2.14", "memcpy"},
		{"C clone", "do_work.part.0", "do_work.part.0"},
		{"C++ parameters go, template arguments stay", "_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back"},
		{"C++ return type goes", "_Z3addIiET_S0_S0_", "add<int>"},
		{"C++ clone", "_ZN3foo3barEv.constprop.0", "foo::bar"},
		{"C++ operator", "_ZNK6shapes3BoxIiEltERKS1_", "shapes::Box<int>::operator<"},
		{"C++ with a symbol version", "_ZNSs4nposE@@GLIBCXX_3.4", "std::string::npos"},
		{"C++ lambda", "_ZZ4mainENKUliE_clEi", "main::{lambda(int)#1}::operator()"},
		{"Rust, legacy: the hash goes", "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad"},
		{"Rust, v0: the hash goes", "_RNvCskwGfYPst2Cb_3foo16example_function", "foo::example_function"},
		{"Rust, v0, generic", "_RINvNtC3std3mem8align_ofdE", "std::mem::align_of::<f64>"},
		{"no mangled name", "_Z", "_Z"},
		{"no Rust name", "_Rx", "_Rx"},
	}
	var d demangler
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second from the memo
				if got := d.name(tt.in); got != tt.want {
					t.Errorf("name(%q) = %q, want %q", tt.in, got, tt.want)
				}
			}
		})
	}
}

// TestDemangleIsBounded has a name of 170 bytes that stands for gigabytes:
// each type is a function of the one before, twice.
func TestDemangleIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("_Z1fI")
	b.WriteString("St4pairIiiE")
	for i := range 35 {
		sub := strings.ToUpper(string("0123456789abcdefghijklmnopqrstuvwxyz"[i]))
		b.WriteString("St4pairIS" + sub + "_S" + sub + "_E")
	}
	b.WriteString("EvT_")
	var d demangler
	if got := d.name(b.String()); len(got) > 1<<maxDemangledLog {
		t.Errorf("name of %d bytes", len(got))
	}
}

func TestDemanglerIsBounded(t *testing.T) {
	// Clones of one function, a byte more each, so that none is in the memo.
	var d demangler
	long := "_Z16383" + strings.Repeat("x", 16383) + "v."
	made := 0
	for i := range 2 * maxDemangled / 16383 {
		if name := d.name(long + strings.Repeat("c", 1+i)); !strings.HasPrefix(name, "_Z") {
			made += len(name)
		}
		if d.size > maxMemo+1<<20 {
			t.Fatalf("%d bytes kept", d.size)
		}
	}
	if made < maxDemangled/2 || made > maxDemangled+1<<maxDemangledLog {
		t.Errorf("%d bytes of names made, want at most %d", made, maxDemangled)
	}
	d.reset()
	if got := d.name("_Z3addii"); got != "add" {
		t.Errorf("after reset %q, want add", got)
	}
}

func TestCleanName(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", ""},
		{"std::vector<int>::push_back", "std::vector<int>::push_back"},
		{"main.größe", "main.größe"},
		{"a\nb\x00c\x7f", "a\ufffdb\ufffdc\ufffd"},
		{"\u0085\u009b", "\ufffd\ufffd"},
		{"a\xff\xfeb", "a\ufffd\ufffdb"},
		{"</script>;", "</script>;"},
	}
	for _, tt := range tests {
		if got := cleanName(tt.in); got != tt.want {
			t.Errorf("cleanName(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"_ZNSt6vectorIiSaIiEE9push_backERKi", "_RINvNtC3std3mem8align_ofdE", "_ZN4core3fmt3pad17h0123456789abcdefE", "a\x00\xff@@V1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var d demangler
		got := cleanName(d.name(s))
		if !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Fatalf("name %q of %q", got, s)
		}
		if limit := max(1<<maxDemangledLog, len(s)); len(got) > 3*limit {
			t.Fatalf("name of %d bytes of %d", len(got), len(s))
		}
	})
}
