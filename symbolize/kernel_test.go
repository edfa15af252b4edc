package symbolize

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

func kallsyms(s string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
}

const someKallsyms = `0000000000000000 A fixed_percpu_data
ffffffff81000000 T __alias
ffffffff81000000 T alias
ffffffff81000000 t local_with_a_long_name
ffffffff81000040 T entry_SYSCALL_64
ffffffff81000100 W weak_one
ffffffff81000200 T page_fault
ffffffff81000280 D some_data
ffffffff81000300 R some_rodata
ffffffffc0002000 t mod_b	[second]
ffffffffc0001000 t mod_a	[first]
ffffffffc0100000 t bpf_prog_6deef7357e7b4530_sd_devices	[bpf]
ffffffffc0100200 t bpf_prog_7cc47bbf07148bfe_dump	[bpf]
`

func TestKernel(t *testing.T) {
	extra := []KernelSymbol{
		{Addr: 0xffffffffc0100100, Size: 0x80, Name: "bpf_prog_gone"},
		{Addr: 0xffffffffc0100200, Size: 0x80, Name: "bpf_prog_older_there"},
		{Addr: 0xffffffffc0300000, Size: 0x80, Name: "bpf_prog_first"},
		{Addr: 0xffffffffc0300000, Size: 0x80, Name: "bpf_prog_second"},
		{Addr: 0xffffffff81000000, Size: 1 << 40, Name: "everything"},
	}
	want := map[elfAddr]string{
		0xffffffff80ffffff: "",
		0xffffffff81000000: "alias",
		0xffffffff8100003f: "alias",
		0xffffffff81000040: "entry_SYSCALL_64",
		0xffffffff810001ff: "weak_one",
		0xffffffff81000290: "page_fault", // data is no end: code and data do not mix
		0xffffffffc0001fff: "mod_a",
		0xffffffffc0002000: "mod_b",
		0xffffffffc0050000: "everything", // too far behind mod_b
		0xffffffffc0100010: "bpf_prog_6deef7357e7b4530_sd_devices",
		0xffffffffc0100110: "bpf_prog_gone",
		0xffffffffc0100190: "bpf_prog_6deef7357e7b4530_sd_devices", // behind the one that is gone
		0xffffffffc0100210: "bpf_prog_7cc47bbf07148bfe_dump",
		0xffffffffc0300010: "bpf_prog_second",
	}
	var addrs []elfAddr
	for a := range want {
		addrs = append(addrs, a)
	}
	q := queries(addrs...)
	k := kernel{open: kallsyms(someKallsyms), extra: extra}
	if err := k.resolve(q); err != nil {
		t.Fatal(err)
	}
	for _, q := range q {
		if got := nameOf(q); got != want[q.addr] {
			t.Errorf("%#x: %q, want %q", q.addr, got, want[q.addr])
		}
	}
}

func TestKernelAddressesHidden(t *testing.T) {
	hidden := "0000000000000000 T _text\n0000000000000000 t start\n"
	q := queries(0xffffffff81000000, 0xffffffffc0000010)
	k := kernel{open: kallsyms(hidden), extra: []KernelSymbol{{0xffffffffc0000000, 0x20, "bpf_prog"}}}
	err := k.resolve(q)
	if err == nil || !strings.Contains(err.Error(), "kptr_restrict") {
		t.Errorf("error %v", err)
	}
	if want := "[unknown: kernel addresses hidden, see kptr_restrict]"; q[0].pseudo != want || len(q[0].frames) != 0 {
		t.Errorf("%q, %q; want %q", q[0].pseudo, nameOf(q[0]), want)
	}
	if nameOf(q[1]) != "bpf_prog" {
		t.Errorf("%q, want bpf_prog", nameOf(q[1]))
	}
}

func TestKernelWithoutKallsyms(t *testing.T) {
	denied := errors.New("denied")
	q := queries(0xffffffff81000000)
	k := kernel{open: func() (io.ReadCloser, error) { return nil, denied }}
	if err := k.resolve(q); !errors.Is(err, denied) || len(q[0].frames) != 0 {
		t.Errorf("error %v, name %q", err, nameOf(q[0]))
	}
}

func TestParseKallsyms(t *testing.T) {
	tests := []struct {
		in, name string
		ok       bool
	}{
		{"ffffffff81000000 T _text", "_text", true},
		{"ffffffffc0000000 t f\t[mod]", "f", true},
		{"ffffffff81000000 w weak", "weak", true},
		{"ffffffff81000000 D data", "", false},
		{"ffffffff81000000 A absolute", "", false},
		{"ffffffff81000000 T ", "", false},
		{"ffffffff81000000 T \t[mod]", "", false},
		{"ffffffff81000000T x", "", false},
		{"fffffffff81000000 T 17_digits", "", false},
		{" T x", "", false},
		{"", "", false},
	}
	for _, tt := range tests {
		if _, _, name, ok := parseKallsyms([]byte(tt.in)); string(name) != tt.name && ok || ok != tt.ok {
			t.Errorf("parseKallsyms(%q) = %q, %v; want %q, %v", tt.in, name, ok, tt.name, tt.ok)
		}
	}
}

// TestThisKernel names the start of each function of the running kernel.
func TestThisKernel(t *testing.T) {
	b, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		t.Skip(err)
	}
	names := make(map[elfAddr][]string)
	for line := range bytes.Lines(b) {
		addr, _, name, ok := parseKallsyms(bytes.TrimSuffix(line, []byte("\n")))
		if ok && addr != 0 {
			names[addr] = append(names[addr], string(name))
		}
	}
	if len(names) == 0 {
		t.Skip("kernel addresses are hidden")
	}
	var addrs []elfAddr
	for a := range names {
		addrs = append(addrs, a)
	}
	q := queries(addrs...)
	k := kernel{open: kallsyms(string(b))}
	if err := k.resolve(q); err != nil {
		t.Fatal(err)
	}
	for _, q := range q {
		if !slices.Contains(names[q.addr], nameOf(q)) {
			t.Fatalf("%#x: %q, want one of %q", q.addr, nameOf(q), names[q.addr])
		}
	}
}

func FuzzKallsyms(f *testing.F) {
	f.Add([]byte(someKallsyms), uint64(0xffffffff81000050))
	f.Add([]byte("0 T a\n1 t b\tx\n"), uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, addr uint64) {
		q := queries(elfAddr(addr))
		k := kernel{open: kallsyms(string(b))}
		if err := k.resolve(q); err != nil && len(q[0].frames) > 0 {
			t.Fatalf("name %q with error %v", nameOf(q[0]), err)
		}
		best, found := elfAddr(0), false
		for line := range bytes.Lines(b) {
			a, _, _, ok := parseKallsyms(bytes.TrimSuffix(line, []byte("\n")))
			if ok && a != 0 && a <= elfAddr(addr) && len(line) < maxLine && bytes.HasSuffix(line, []byte("\n")) {
				best, found = max(best, a), true
			}
		}
		found = found && elfAddr(addr)-best < maxKernelFunction
		if found != (len(q[0].frames) > 0) {
			t.Fatalf("%#x: name %q, nearest symbol at %#x", addr, nameOf(q[0]), best)
		}
	})
}

func BenchmarkKallsyms(b *testing.B) {
	text, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		b.Skip(err)
	}
	q := queries()
	for line := range bytes.Lines(text) {
		if a, _, _, ok := parseKallsyms(line); ok && len(q) < 100_000 {
			q = append(q, query{addr: a + 1})
		}
	}
	for _, n := range []int{500} {
		var some []elfAddr
		for i := range n {
			some = append(some, q[i*len(q)/n].addr)
		}
		b.Run(fmt.Sprintf("addrs=%d", n), func(b *testing.B) {
			k := kernel{open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }}
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if err := k.resolve(queries(some...)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
