package unwind

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"hotframe/internal/object"
	"hotframe/internal/testutil"
)

// goQuits has many goroutines in many functions.
const goQuits = `package main

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"sort"
	"strings"
	"text/template"
	"time"
)

//go:noinline
func deep(n int, f func()) int {
	if n == 0 {
		f()
		return 0
	}
	return deep(n-1, f) + n
}

func block() { select {} }

type blocks struct{}

func (blocks) String() string               { block(); return "" }
func (blocks) MarshalJSON() ([]byte, error) { block(); return nil, nil }
func (blocks) Write([]byte) (int, error)    { block(); return 0, nil }
func (blocks) Read([]byte) (int, error)     { block(); return 0, nil }
func (blocks) Block() string                { block(); return "" }

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { block() }))
	for n := range 50 {
		go deep(n, block)
		go deep(n, func() { fmt.Sprint(blocks{}) })
		go deep(n, func() { json.Marshal(map[string]any{"x": []any{blocks{}}}) })
		go func() { template.Must(template.New("").Parse("{{range .}}{{.Block}}{{end}}")).Execute(io.Discard, []blocks{{}}) }()
		go func() { w := gzip.NewWriter(blocks{}); w.Write(bytes.Repeat([]byte("x"), 1<<20)) }()
		go func() { sort.Slice(make([]int, 9), func(i, j int) bool { block(); return false }) }()
		go func() { strings.Map(func(r rune) rune { block(); return r }, "x") }()
		go func() { regexp.MustCompile("a").ReplaceAllStringFunc("aa", func(string) string { block(); return "" }) }()
		go func() { parser.ParseFile(token.NewFileSet(), "x", blocks{}, 0) }()
		go func() { ed25519.GenerateKey(blocks{}) }()
	}
	for range 5 {
		go http.Get("http://" + l.Addr().String())
	}
	for range 2 {
		go func() {
			for i := 0; ; i++ {
				var b bytes.Buffer
				json.NewEncoder(&b).Encode(map[string]any{"a": i, "b": strings.Repeat("x", i%100)})
				gzip.NewWriter(io.Discard).Write(b.Bytes())
			}
		}()
	}
	time.Sleep(300 * time.Millisecond)
	fmt.Println("ready")
	os.Stdout.Close()
	block()
}
`

// buildGoProgram builds a program of one file.
func buildGoProgram(t *testing.T, src string, env []string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	file, out := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(file, []byte(src), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testutil.NeedTool(t, "go"), slices.Concat([]string{"build", "-o", out}, args, []string{file})...)
	cmd.Env = append(os.Environ(), env...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, b)
	}
	return out
}

// goTable is what Build makes of the Go part of a program.
func goTable(t testing.TB, path string) *Table {
	t.Helper()
	f := openGo(t, path)
	rows, stats, err := goRows(f)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Damaged > 0 {
		t.Errorf("%s: %+v", path, stats)
	}
	return &Table{Arch: f.arch, Base: f.base, Rows: rows, Stats: stats}
}

var framePattern = regexp.MustCompile(` fp=0x([0-9a-f]+) sp=0x([0-9a-f]+) pc=0x([0-9a-f]+)$`)

// A goTrace is a frame of the traceback that the runtime prints.
type goTrace struct {
	fn         string
	leaf       bool
	fp, sp, pc uint64 // fp is the value of SP in the caller
}

// readTraces reads the goroutines in a traceback.
func readTraces(b []byte) [][]goTrace {
	var all [][]goTrace
	var fn string
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := s.Text()
		m := framePattern.FindStringSubmatch(line)
		switch {
		case strings.HasPrefix(line, "goroutine "):
			all = append(all, nil)
		case m == nil:
			fn = line
		case len(all) > 0:
			f := goTrace{fn: fn, leaf: len(all[len(all)-1]) == 0}
			for i, p := range []*uint64{&f.fp, &f.sp, &f.pc} {
				*p, _ = strconv.ParseUint(m[i+1], 16, 64)
			}
			all[len(all)-1] = append(all[len(all)-1], f)
		}
	}
	return all
}

// TestGoRowsAgainstTraceback compares with what the runtime says of the frames of all
// goroutines when a program gets SIGQUIT.
func TestGoRowsAgainstTraceback(t *testing.T) {
	strip := "-ldflags=-s -w"
	tests := []struct {
		name string
		env  string
		args []string
		slow bool
	}{
		{"static", "CGO_ENABLED=0", nil, false},
		{"static, stripped", "CGO_ENABLED=0", []string{strip}, false},
		{"cgo", "CGO_ENABLED=1", nil, false},
		{"PIE, stripped", "CGO_ENABLED=0", []string{strip, "-buildmode=pie"}, true},
		{"cgo, PIE, stripped", "CGO_ENABLED=1", []string{strip, "-buildmode=pie"}, true},
		{"without optimization", "CGO_ENABLED=0", []string{"-gcflags=-N -l"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.slow && testing.Short() {
				t.Skip("compiles the standard library")
			}
			if tt.env == "CGO_ENABLED=1" {
				testutil.NeedTool(t, "gcc")
			}
			path := buildGoProgram(t, goQuits, []string{tt.env}, tt.args...)
			compareTraceback(t, exec.Command(path))
		})
	}
}

// compareTraceback runs a program until it says that it is ready.
func compareTraceback(t *testing.T, cmd *exec.Cmd) {
	table := goTable(t, cmd.Path)
	cmd.Env = append(os.Environ(), "GOTRACEBACK=system")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); strings.TrimSpace(line) != "ready" {
		t.Fatalf("%q, %v\n%s", line, err, &stderr)
	}
	bias, err := loadBias(cmd.Process.Pid, cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	frames, kinds := 0, make(map[Kind]int)
	traces := readTraces(stderr.Bytes())
	for _, trace := range traces {
		for i, f := range trace {
			addr := f.pc - bias
			if !f.leaf {
				addr--
			}
			rule := table.Lookup(addr)
			kinds[rule.Kind()]++
			switch rule.Kind() {
			case KindSP:
				want := f.fp
				if i+1 < len(trace) { // behind a call that a signal handler made there is more on arm64
					want = trace[i+1].sp
				}
				if cfa := f.sp + 8*uint64(rule.Offset()); cfa != want {
					t.Errorf("%s at %#x: CFA %#x, want %#x", f.fn, addr, cfa, want)
				}
				if i+1 < len(trace) && rule.Offset() > 1 && rule.Frame() != 2 && table.Arch == AMD64 {
					t.Errorf("%s at %#x: frame pointer at %d", f.fn, addr, rule.Frame())
				}
				frames++
			case KindEnd:
				if i+1 < len(trace) {
					t.Errorf("%s is taken for the end; %s calls it", f.fn, trace[i+1].fn)
				}
				frames++
			case KindGoSwitch: // the runtime shows the frame on the other stack
			default:
				t.Errorf("%s at %#x: kind %d", f.fn, addr, rule.Kind())
			}
		}
		if n := len(trace); n > 0 && trace[n-1].pc != 0 {
			if k := table.Lookup(trace[n-1].pc - bias - 1).Kind(); k != KindEnd && k != KindGoSwitch {
				t.Logf("the bottom %s has kind %d", trace[n-1].fn, k)
			}
		}
	}
	if frames < 5000 {
		t.Errorf("%d frames compared\n%s", frames, &stderr)
	}
	t.Logf("%d frames of %d goroutines compared, kinds %v", frames, len(traces), kinds)
}

// loadBias is what the addresses of a process are above those in the file.
func loadBias(pid int, path string) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return 0, err
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	h, err := object.ReadHeaders(f, info.Size())
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(b), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[5] != path || !strings.Contains(fields[1], "x") {
			continue
		}
		start, _, _ := strings.Cut(fields[0], "-")
		addr, err1 := strconv.ParseUint(start, 16, 64)
		off, err2 := strconv.ParseUint(fields[2], 16, 64)
		if err1 != nil || err2 != nil {
			return 0, fmt.Errorf("%q", line)
		}
		for _, s := range h.Segments {
			if s.Type == object.SegmentLoad && s.Flags&object.SegmentExec != 0 && s.Off&^0xfff == off {
				return addr - s.Vaddr&^0xfff, nil
			}
		}
	}
	return 0, fmt.Errorf("%s is not mapped in %s", path, b)
}
