package aggregate

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"hotframe/internal/testutil"
	"hotframe/sampler"
)

// aggregate counts all samples of a recording. It returns their number.
func aggregate(recording io.Reader) (*Recording, int, error) {
	start := time.Unix(1_700_000_000, 0)
	src := sampler.NewReplay(recording)
	a := New(Config{
		Host: "host", Kernel: "6.1.0", Event: "cpu-clock", Frequency: 99,
		Start: start, Main: "/usr/bin/server",
	})
	for n := 0; ; n++ {
		var s sampler.Sample
		if err := src.Read(&s); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return a.Flush(start.Add(500*time.Millisecond), src.Stats()), n, err
		}
		a.Add(&s)
	}
}

func replay(t *testing.T, name string) *profile.Profile {
	t.Helper()
	f, err := os.Open("../testdata/samples/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, n, err := aggregate(f)
	if err != nil {
		t.Fatal(err)
	}
	checkProfile(t, r.Profile, n)
	return r.Profile
}

func TestReplay(t *testing.T) {
	defer func(l *time.Location) { time.Local = l }(time.Local)
	time.Local = time.UTC // String shows times as local ones
	testutil.Golden(t, []byte(replay(t, "mixed.jsonl").String()), "mixed.golden")
}

// TestSameInputSameBytes: no map's order reaches the profile.
func TestSameInputSameBytes(t *testing.T) {
	var first bytes.Buffer
	if err := replay(t, "mixed.jsonl").Write(&first); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		var next bytes.Buffer
		if err := replay(t, "mixed.jsonl").Write(&next); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), next.Bytes()) {
			t.Fatal("two profiles of one recording differ")
		}
	}
}

// FuzzAggregate: whatever the samples are, each is counted once in a valid
// profile that its encoding keeps.
func FuzzAggregate(f *testing.F) {
	mixed, err := os.ReadFile("../testdata/samples/mixed.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(mixed)
	f.Fuzz(func(t *testing.T, recording []byte) {
		r, n, _ := aggregate(bytes.NewReader(recording))
		checkProfile(t, r.Profile, n)
	})
}
