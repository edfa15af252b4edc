package symbolize

import (
	"fmt"
	"strings"
	"testing"
)

func resolvePerfMap(text string, addrs ...elfAddr) ([]query, error) {
	q := queries(addrs...)
	m := perfMap{strings.NewReader(text), int64(len(text))}
	return q, m.resolve(q)
}

func TestPerfMap(t *testing.T) {
	const text = "1000 100 old\n" +
		"2000 10 LazyCompile:~f /app.js:1 with spaces; and </script>\n" +
		"1080 20 newer\n" +
		"0x3000 0x10 prefixed\n" +
		"no hex here\n" +
		"4000 0 nothing\n" +
		"ffffffffffffff00 ffffffffffffffff up to the end\n" +
		"5000 10 to"
	want := map[elfAddr]string{
		0x0fff:             "",
		0x1000:             "old",
		0x1080:             "newer",
		0x10a0:             "old",
		0x1100:             "",
		0x2005:             "LazyCompile:~f /app.js:1 with spaces; and </script>",
		0x300f:             "prefixed",
		0x4000:             "",
		0x5000:             "", // torn
		0xfffffffffffffffe: "up to the end",
	}
	var addrs []elfAddr
	for a := range want {
		addrs = append(addrs, a)
	}
	q, err := resolvePerfMap(text, addrs...)
	if err == nil || !strings.Contains(err.Error(), "1 lines") {
		t.Errorf("error %v, want one that counts the damaged line", err)
	}
	for _, q := range q {
		if got := nameOf(q); got != want[q.addr] {
			t.Errorf("%#x: %q, want %q", q.addr, got, want[q.addr])
		}
		if (q.pseudo == "") != (len(q.frames) > 0) {
			t.Errorf("%#x: pseudo name %q", q.addr, q.pseudo)
		}
	}
}

func TestPerfMapLaterEntriesWin(t *testing.T) {
	q, err := resolvePerfMap("1000 100 a\n1000 100 b\n10f0 100 c\n0 1000 d\n", 0x1000, 0x10f0, 0xfff)
	if err != nil {
		t.Fatal(err)
	}
	if got := []string{nameOf(q[0]), nameOf(q[1]), nameOf(q[2])}; fmt.Sprint(got) != "[d b c]" {
		t.Errorf("names %q, want d b c", got)
	}
}

func TestPerfMapBadLines(t *testing.T) {
	for _, line := range []string{
		"", " ", "1000", "1000 ", "1000 10", "1000 10 ", "1000  10 x", "xyz 10 x", "1000 xyz x", "-1 10 x",
		"10000000000000000 10 x", "1000 10000000000000000 x", "1000\t10\tx", "0x 10 x", "\x00\xff\xfe",
	} {
		if _, _, name, ok := parsePerfMap([]byte(line)); ok {
			t.Errorf("parsePerfMap(%q) = %q", line, name)
		}
	}
}

func TestPerfMapLongLines(t *testing.T) {
	text := "1000 10 " + strings.Repeat("x", 1<<20) + "\n" + "2000 10 y\n"
	q, err := resolvePerfMap(text, 0x1000, 0x2000)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(nameOf(q[0])); n != maxPerfMapName {
		t.Errorf("name of %d bytes, want %d", n, maxPerfMapName)
	}
	if nameOf(q[1]) != "y" {
		t.Errorf("name %q after a long line, want y", nameOf(q[1]))
	}
}

func TestPerfMapIsCut(t *testing.T) {
	text := "1000 10 x\n" + strings.Repeat(strings.Repeat(" ", 1<<20-1)+"\n", 64) + "2000 10 y\n"
	q, err := resolvePerfMap(text, 0x1000, 0x2000)
	if err == nil || !strings.Contains(err.Error(), "first 64 MB") {
		t.Errorf("error %v, want one that says what was read", err)
	}
	if nameOf(q[0]) != "x" || nameOf(q[1]) != "" {
		t.Errorf("names %q, %q", nameOf(q[0]), nameOf(q[1]))
	}
}

func TestPerfMapOverlapIsBounded(t *testing.T) {
	var addrs []elfAddr
	for i := range elfAddr(1 << 13) {
		addrs = append(addrs, i)
	}
	if _, err := resolvePerfMap(strings.Repeat("0 ffffffffffff x\n", 1<<14), addrs...); err == nil {
		t.Error("no error")
	}
}

func FuzzPerfMap(f *testing.F) {
	f.Add([]byte("1000 100 a\n1050 10 b\n"), uint64(0x1055))
	f.Add([]byte("0x1000 0x100 a b\nbad\n1000 1"), uint64(0x1000))
	f.Fuzz(func(t *testing.T, b []byte, addr uint64) {
		q, _ := resolvePerfMap(string(b), elfAddr(addr))
		want := ""
		for line := range strings.Lines(string(b)) {
			line, whole := strings.CutSuffix(line, "\n")
			if !whole || len(line) >= maxLine {
				continue
			}
			if start, end, name, ok := parsePerfMap([]byte(line)); ok && start <= elfAddr(addr) && elfAddr(addr) < end {
				want = string(name)
			}
		}
		if got := nameOf(q[0]); got != want && len(b) < maxLine {
			t.Fatalf("%#x: %q, want %q", addr, got, want)
		}
		if len(nameOf(q[0])) > maxPerfMapName {
			t.Fatalf("name of %d bytes", len(nameOf(q[0])))
		}
	})
}

func BenchmarkPerfMap(b *testing.B) {
	var text strings.Builder
	var addrs []elfAddr
	for i := range 100_000 {
		fmt.Fprintf(&text, "%x 40 LazyCompile:*function%d /srv/app/lib/file.js:%d\n", 0x7f0000000000+i*64, i, i)
		if i%200 == 0 {
			addrs = append(addrs, elfAddr(0x7f0000000000+i*64+3))
		}
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := resolvePerfMap(text.String(), addrs...); err != nil {
			b.Fatal(err)
		}
	}
}
