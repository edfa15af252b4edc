package aggregate

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"hotframe/internal/testutil"
	"hotframe/sampler"
)

// replay aggregates a recording as the recorder of a live host would.
func replay(t *testing.T, name string) *Recording {
	t.Helper()
	f, err := os.Open("../testdata/samples/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	start := time.Unix(1_700_000_000, 0)
	src := sampler.NewReplay(f)
	a := New(Config{
		Host: "host", Kernel: "6.1.0", Event: "cpu-clock", Frequency: 99,
		Start: start, Main: "/usr/bin/server",
	})
	var s sampler.Sample
	for {
		err := src.Read(&s)
		if errors.Is(err, io.EOF) {
			return a.Flush(start.Add(500*time.Millisecond), src.Stats())
		}
		if err != nil {
			t.Fatal(err)
		}
		a.Add(&s)
	}
}

func TestReplay(t *testing.T) {
	defer func(l *time.Location) { time.Local = l }(time.Local)
	time.Local = time.UTC // String shows times as local ones
	p := replay(t, "mixed.jsonl").Profile
	checkProfile(t, p, 16)
	testutil.Golden(t, []byte(p.String()), "mixed.golden")
}

// TestSameInputSameBytes: no map's order reaches the profile.
func TestSameInputSameBytes(t *testing.T) {
	var first bytes.Buffer
	if err := replay(t, "mixed.jsonl").Profile.Write(&first); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		var next bytes.Buffer
		if err := replay(t, "mixed.jsonl").Profile.Write(&next); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), next.Bytes()) {
			t.Fatal("two profiles of one recording differ")
		}
	}
}
