package symbolize

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/pprof/profile"

	"hotframe/internal/object"
)

// benchFiles are files of this machine by size of their symbol tables.
func benchFiles(b *testing.B) map[string]string {
	files := map[string]string{"libc": libc(), "go": goTool(b)}
	if path, err := exec.LookPath("node"); err == nil {
		files["node"] = path
	}
	if found, _ := filepath.Glob("/usr/lib/*/libLLVM*.so*"); len(found) > 0 {
		files["libLLVM"] = found[len(found)-1]
	}
	return files
}

// BenchmarkSymbolize names 3,000 addresses of one file, from an unsymbolized
// profile to a symbolized one.
func BenchmarkSymbolize(b *testing.B) {
	eachBenchFile(b, func(b *testing.B, path string) {
		f := open(b, path)
		m := &profile.Mapping{ID: 1, Limit: uint64(f.size), File: path}
		p := &profile.Profile{SampleType: []*profile.ValueType{{}}, Mapping: []*profile.Mapping{m}}
		for i, q := range randomCode(f.headers, 3000) {
			off, _ := f.fileOffset(uint64(q.addr))
			p.Location = append(p.Location, &profile.Location{ID: uint64(i + 1), Mapping: m, Address: off})
		}
		file := object.NewFile(object.ELF, path, f.r, f.size)
		b.ReportAllocs()
		for b.Loop() {
			p.Function = nil
			for _, l := range p.Location {
				l.Line = nil
			}
			s := New(Config{})
			if err := s.Symbolize(p, func(*profile.Mapping) *object.File { return file }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkSymbols is the part of the symbol tables alone.
func BenchmarkSymbols(b *testing.B) {
	eachBenchFile(b, func(b *testing.B, path string) {
		f := open(b, path)
		all := randomCode(f.headers, 3000)
		b.ReportAllocs()
		for b.Loop() {
			if err := (symbols{f}).resolve(slices.Clone(all)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkDebugELF does the same by debug/elf, as most Go programs do.
func BenchmarkDebugELF(b *testing.B) {
	eachBenchFile(b, func(b *testing.B, path string) {
		all := randomCode(open(b, path).headers, 3000)
		b.ReportAllocs()
		for b.Loop() {
			f, err := elf.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			static, _ := f.Symbols()
			dynamic, _ := f.DynamicSymbols()
			syms := slices.DeleteFunc(append(static, dynamic...), func(s elf.Symbol) bool {
				return elf.ST_TYPE(s.Info) != elf.STT_FUNC || s.Section == elf.SHN_UNDEF
			})
			slices.SortFunc(syms, func(a, b elf.Symbol) int {
				switch {
				case a.Value < b.Value:
					return -1
				case a.Value > b.Value:
					return 1
				}
				return 0
			})
			for _, q := range all {
				_, _ = slices.BinarySearchFunc(syms, uint64(q.addr), func(s elf.Symbol, a uint64) int {
					if s.Value <= a {
						return -1
					}
					return 1
				})
			}
			f.Close()
		}
	})
}

func eachBenchFile(b *testing.B, run func(b *testing.B, path string)) {
	files := benchFiles(b)
	for _, name := range []string{"libc", "go", "libLLVM", "node"} {
		path := files[name]
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		b.Run(fmt.Sprintf("elf=%s", name), func(b *testing.B) {
			b.Logf("%s: %d MB", path, info.Size()>>20)
			run(b, path)
		})
	}
}
