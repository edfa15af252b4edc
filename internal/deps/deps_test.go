// Package deps holds the directions of imports, and what follows from them:
// everything from aggregate on builds without Linux and without BPF.
package deps

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hotframe/internal/testutil"
)

const module = "hotframe"

// A pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string // without those of tests
	Deps       []string // what Imports reach
}

// list is all packages of the module, by import path, as they are on an
// operating system.
func list(t *testing.T, goos string) map[string]pkg {
	t.Helper()
	out := run(t, goos, "list", "-json=ImportPath,Dir,GoFiles,Imports,Deps", "./...")
	packages := make(map[string]pkg)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
}

func run(t *testing.T, goos string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(testutil.NeedTool(t, "go"), args...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH=arm64", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("GOOS=%s go %s: %v\n%s", goos, strings.Join(args, " "), err, &stderr)
	}
	return out
}

// within reports whether a package is one of those, or lies below one.
func within(path string, those ...string) bool {
	return slices.ContainsFunc(those, func(p string) bool {
		return path == p || strings.HasPrefix(path, p+"/")
	})
}

func TestDirections(t *testing.T) {
	const (
		ebpf     = "github.com/cilium/ebpf"
		goperf   = "github.com/elastic/go-perf"
		internal = module + "/internal"
		cmd      = module + "/cmd"
		bench    = module + "/internal/bench" // a program
	)
	readers := []string{module + "/symbolize", module + "/flamegraph", module + "/collapse"}
	stages := append(readers, module+"/bpf", module+"/sampler", module+"/aggregate")

	tests := []struct {
		name string
		goos string
		of   func(path string) bool
		bad  func(dep string) bool
	}{
		{
			name: "who reads profiles reaches neither BPF nor perf events nor the sampler",
			goos: "linux",
			of:   func(path string) bool { return within(path, readers...) },
			bad:  func(dep string) bool { return within(dep, ebpf, goperf, module+"/bpf", module+"/sampler") },
		},
		{
			name: "the types of samples reach neither BPF nor perf events",
			goos: "darwin",
			of:   func(path string) bool { return within(path, module+"/aggregate", module+"/sampler") },
			bad:  func(dep string) bool { return within(dep, ebpf, goperf, module+"/bpf") },
		},
		{
			name: "aggregate joins samples and files, nothing else",
			goos: "linux",
			of:   func(path string) bool { return path == module+"/aggregate" },
			bad: func(dep string) bool {
				return within(dep, stages...) && !within(dep, module+"/sampler", module+"/bpf")
			},
		},
		{
			name: "internal packages reach no stage",
			goos: "linux",
			of:   func(path string) bool { return within(path, internal) && !within(path, bench) },
			bad:  func(dep string) bool { return within(dep, stages...) },
		},
		{
			name: "no program carries what tests use",
			goos: "linux",
			of:   func(path string) bool { return !within(path, module+"/internal/testutil") },
			bad: func(dep string) bool {
				return within(dep, module+"/internal/testutil", "github.com/chromedp/chromedp", "testing")
			},
		},
		{
			name: "nothing reaches the command",
			goos: "linux",
			of:   func(path string) bool { return !within(path, cmd) },
			bad:  func(dep string) bool { return within(dep, cmd) },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			checked := 0
			for path, p := range list(t, tt.goos) {
				if !tt.of(path) {
					continue
				}
				checked++
				for _, dep := range p.Deps {
					if tt.bad(dep) {
						t.Errorf("%s reaches %s", path, dep)
					}
				}
			}
			if checked == 0 {
				t.Error("there is no such package")
			}
		})
	}
}

func TestImportsOfAggregate(t *testing.T) {
	for _, path := range list(t, "linux")[module+"/aggregate"].Imports {
		if within(path, module) && !within(path, module+"/sampler", module+"/internal/object") {
			t.Errorf("aggregate imports %s", path)
		}
	}
}

// TestBuildsAnywhere compiles and vets, with their tests, for a system that
// has neither perf events nor BPF nor /proc.
func TestBuildsAnywhere(t *testing.T) {
	run(t, "darwin", "vet", "./aggregate/...", "./sampler/...", "./symbolize/...", "./flamegraph/...", "./collapse/...")
}

// TestSizes keeps packages and files readable in one sitting. Generated files
// do not count.
func TestSizes(t *testing.T) {
	const maxFiles, maxLines = 24, 600
	for path, p := range list(t, "linux") {
		files := 0
		for _, name := range p.GoFiles {
			b, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.HasPrefix(b, []byte("// Code generated ")) {
				continue
			}
			files++
			if n := bytes.Count(b, []byte("\n")); n > maxLines {
				t.Errorf("%s/%s has %d lines, more than %d", path, name, n, maxLines)
			}
		}
		if files > maxFiles {
			t.Errorf("%s has %d files, more than %d", path, files, maxFiles)
		}
	}
}
