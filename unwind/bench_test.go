package unwind

import (
	"os"
	"testing"
)

func BenchmarkBuild(b *testing.B) {
	for _, elf := range []struct{ name, path string }{
		{"libc", "/lib/x86_64-linux-gnu/libc.so.6"},
		{"node", "/usr/bin/node"},
		{"cc1plus", programOf("cc1plus")},
	} {
		b.Run("elf="+elf.name, func(b *testing.B) {
			f, err := os.Open(elf.path)
			if err != nil {
				b.Skip(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			var t *Table
			for b.Loop() {
				if t, err = Build(f, info.Size()); err != nil {
					b.Fatal(err)
				}
			}
			mb := float64(t.Text) / 1e6
			b.ReportMetric(float64(len(t.Rows)), "rows")
			b.ReportMetric(8*float64(len(t.Rows))/mb, "tableB/MB")
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	f, err := os.Open("/lib/x86_64-linux-gnu/libc.so.6")
	if err != nil {
		b.Skip(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	t, err := Build(f, info.Size())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	addr := t.Base
	for b.Loop() {
		t.Lookup(addr)
		addr = t.Base + (addr-t.Base+7919)%t.Text
	}
}
