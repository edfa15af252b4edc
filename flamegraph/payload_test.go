package flamegraph

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"hotframe/internal/frames"
)

// A decoder reads payloads as the viewer does, by the format in payload.go.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.err = errors.New("bad uvarint")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.err = fmt.Errorf("%d of %d bytes", len(d.b), n)
		return make([]byte, n%1024)
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) string() string { return string(d.bytes(d.uvarint())) }

func (d *decoder) column(n uint64) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(d.uvarint())
	}
	return out
}

type payload struct {
	title, subtitle string
	tree            *tree
}

func decodePayload(b []byte) (*payload, error) {
	d := &decoder{b: b}
	if v := d.bytes(1)[0]; v != 1 {
		return nil, fmt.Errorf("version %d", v)
	}
	p := &payload{title: d.string(), subtitle: d.string(), tree: new(tree)}
	shades := d.uvarint()
	for range d.uvarint() {
		d.string()
		d.bytes(2 * 3 * shades)
	}
	t := p.tree
	t.metrics = make([]metric, d.uvarint())
	for i := range t.metrics {
		t.metrics[i].typ, t.metrics[i].unit = d.string(), d.string()
	}
	t.shown = int(d.uvarint())
	lengths := d.column(d.uvarint())
	for _, n := range lengths {
		t.frames = append(t.frames, frame{name: string(d.bytes(uint64(n)))})
	}
	for i, k := range d.bytes(uint64(len(lengths))) {
		t.frames[i].kind = kind(k)
	}
	d.bytes(uint64(len(lengths))) // shades
	n := d.uvarint()
	t.frame, t.children = d.column(n), d.column(n)
	scales := make([]int64, len(t.metrics))
	for i := range t.metrics {
		m := &t.metrics[i]
		scales[i] = int64(d.uvarint())
		same := d.uvarint()
		for j := range n {
			v := int64(0)
			if same > 0 {
				v = t.metrics[same-1].self[j] / scales[same-1]
			} else {
				v = int64(d.uvarint())
			}
			m.self = append(m.self, v*scales[i])
			m.total += v * scales[i]
		}
	}
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%d bytes left", len(d.b))
	}
	return p, d.err
}

// payloadOf takes the payload out of an SVG.
func payloadOf(svg []byte) (*payload, error) {
	var text strings.Builder
	inside := false
	for x := xml.NewDecoder(bytes.NewReader(svg)); ; {
		token, err := x.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			inside = token.Name.Local == "metadata"
		case xml.EndElement:
			inside = false
		case xml.CharData:
			if inside {
				text.Write(token)
			}
		}
	}
	compressed, err := base64.StdEncoding.DecodeString(text.String())
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(flate.NewReader(bytes.NewReader(compressed)))
	if err != nil {
		return nil, err
	}
	return decodePayload(b)
}

func TestPayloadIsWholeTree(t *testing.T) {
	p := manyStacks(500)
	want := mustTree(t, p)
	got, err := payloadOf(svgOf(t, p, Options{Title: "T", Subtitle: "S"}))
	if err != nil {
		t.Fatal(err)
	}
	if got.title != "T" || got.subtitle != "S" {
		t.Errorf("title %q, subtitle %q", got.title, got.subtitle)
	}
	if !reflect.DeepEqual(got.tree, want) {
		t.Errorf("payload differs from the tree:\n%s\nwant:\n%s", dump(got.tree), dump(want))
	}
	for i, m := range got.tree.metrics {
		var sum int64
		for _, s := range p.Sample {
			sum += s.Value[i]
		}
		if m.total != sum {
			t.Errorf("%s: sum of self %d, want the profile's %d", m.typ, m.total, sum)
		}
	}
}

func TestPayloadSharesProportionalColumns(t *testing.T) {
	p := manyStacks(500)
	size := func() int {
		var b bytes.Buffer
		if err := writePayload(&b, mustTree(t, p), Options{}); err != nil {
			t.Fatal(err)
		}
		return b.Len()
	}
	both := size()
	p.SampleType = p.SampleType[:1]
	for _, s := range p.Sample {
		s.Value = s.Value[:1]
	}
	if one := size(); both > one+50 {
		t.Errorf("a proportional metric costs %d bytes", both-one)
	}
}

func TestPayloadWithMetricsOfTheirOwn(t *testing.T) {
	m := newMaker()
	m.addNames("", 3, "a", "b")
	m.addNames("", 0, "a", "c")
	m.p.Sample[1].Value[1] = 7
	got, err := payloadOf(svgOf(t, &m.p, Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if want := mustTree(t, &m.p); !reflect.DeepEqual(got.tree, want) {
		t.Errorf("payload:\n%s\nwant:\n%s", dump(got.tree), dump(want))
	}
}

// matched sums the outermost matching subtrees, as the viewer does.
func (t *tree) matched(re *regexp.Regexp) int64 {
	totals, ends := t.totals(t.shown), t.ends()
	var sum int64
	for n := int32(0); n < int32(len(t.frame)); {
		if re.MatchString(t.frames[t.frame[n]].name) {
			sum += totals[n]
			n = ends[n]
		} else {
			n++
		}
	}
	return sum
}

// TestMatchedIsThatOfSamples counts in the payload and, by brute force, in the
// samples: those with any matching frame, once each.
func TestMatchedIsThatOfSamples(t *testing.T) {
	p := manyStacks(1_000)
	got, err := payloadOf(svgOf(t, p, Options{}))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	patterns := []string{"sys_op", "proc1", "all", "nothing at all", "^ns::", "_1.*3"}
	for range 20 {
		patterns = append(patterns, fmt.Sprintf("_%d", rng.IntN(400)))
	}
	for _, pattern := range patterns {
		re := regexp.MustCompile(pattern)
		var want int64
		for _, s := range p.Sample {
			hit := re.MatchString(rootName) || re.MatchString(frames.Comm(s))
			for _, l := range s.Location {
				for _, f := range frames.Append(nil, l) {
					hit = hit || re.MatchString(f.Name)
				}
			}
			if hit {
				want += s.Value[shownMetric(p)]
			}
		}
		if got := got.tree.matched(re); got != want {
			t.Errorf("%q: matched %d, want %d", pattern, got, want)
		}
	}
}
