package flamegraph

import (
	"compress/flate"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
)

// # Payload format, version 1
//
// The payload is the whole tree, from which the viewer draws. It is a raw
// DEFLATE stream (RFC 1951), in base64 in one or more <metadata> elements whose
// class is hotframe-payload, of
//
//	byte    1, the version
//	string  title
//	string  subtitle
//	uvarint T, shades per kind
//	uvarint K, number of kinds, then for each
//	    string  word
//	    T * 3 bytes  RGB shades for light backgrounds
//	    T * 3 bytes  RGB shades for dark backgrounds
//	uvarint M, number of metrics, then for each
//	    string  type, as in pprof
//	    string  unit
//	uvarint index of the metric that widths stand for
//	uvarint F, number of frames, then as columns
//	    F * uvarint  length of the name in bytes
//	    names, in UTF-8, joined
//	    F * byte     kind
//	    F * byte     shade
//	uvarint N, number of nodes in preorder, at least 1, then as columns
//	    N * uvarint  frame; frames of most nodes have the smallest numbers
//	    N * uvarint  number of children
//	for each metric
//	    uvarint scale
//	    uvarint 0: a column follows; i+1: the column equals that of metric i
//	    N * uvarint  value of the node without its children, divided by scale
//
// where uvarint is LEB128 (encoding/binary) and string is a uvarint length and
// bytes of UTF-8. Metrics that are proportional to each other, as counts and
// times of a fixed period are, cost one column.
const payloadVersion = 1

// payloadLevel is a DEFLATE level: 9 saves 1 % of the size for 7 times the time.
const payloadLevel = 6

// writePayload writes the compressed payload.
func writePayload(w io.Writer, t *tree, o Options) error {
	z, err := flate.NewWriter(w, payloadLevel)
	if err != nil {
		return fmt.Errorf("deflate: %w", err)
	}
	e := encoder{w: z}
	e.bytes(payloadVersion)
	e.string(o.Title)
	e.string(o.Subtitle)
	e.kinds()
	e.metrics(t)
	e.frames(t.frames)
	e.uvarint(uint64(len(t.frame)))
	e.column(t.frame)
	e.column(t.children)
	e.values(t.metrics)
	e.flush()
	if e.err != nil {
		return e.err
	}
	return z.Close()
}

// An encoder collects small writes; the first error sticks.
type encoder struct {
	w   io.Writer
	buf []byte
	err error
}

const encoderChunk = 32 << 10

func (e *encoder) flush() {
	if e.err == nil {
		_, e.err = e.w.Write(e.buf)
	}
	e.buf = e.buf[:0]
}

func (e *encoder) uvarint(v uint64) {
	e.buf = binary.AppendUvarint(e.buf, v)
	if len(e.buf) >= encoderChunk {
		e.flush()
	}
}

func (e *encoder) bytes(b ...byte) {
	e.buf = append(e.buf, b...)
	if len(e.buf) >= encoderChunk {
		e.flush()
	}
}

func (e *encoder) string(s string) {
	e.uvarint(uint64(len(s)))
	e.bytes([]byte(s)...)
}

func (e *encoder) column(c []int32) {
	for _, v := range c {
		e.uvarint(uint64(v))
	}
}

func (e *encoder) kinds() {
	e.uvarint(tones)
	e.uvarint(uint64(kindCount))
	for k := range kindCount {
		e.string(kindWord[k])
		for _, row := range []string{palette[k].light, palette[k].dark} {
			for tone := range uint8(tones) {
				rgb, err := hex.DecodeString(shade(row, tone))
				if err != nil && e.err == nil {
					e.err = fmt.Errorf("palette: %w", err)
				}
				e.bytes(rgb...)
			}
		}
	}
}

func (e *encoder) metrics(t *tree) {
	e.uvarint(uint64(len(t.metrics)))
	for _, m := range t.metrics {
		e.string(m.typ)
		e.string(m.unit)
	}
	e.uvarint(uint64(t.shown))
}

func (e *encoder) frames(frames []frame) {
	e.uvarint(uint64(len(frames)))
	for _, f := range frames {
		e.uvarint(uint64(len(f.name)))
	}
	for _, f := range frames {
		e.bytes([]byte(f.name)...)
	}
	for _, f := range frames {
		e.bytes(byte(f.kind))
	}
	for _, f := range frames {
		e.bytes(toneOf(f.name))
	}
}

func (e *encoder) values(metrics []metric) {
	scales := make([]int64, len(metrics))
	for i, m := range metrics {
		scales[i] = commonDivisor(m.self)
		same := 0
		for j := range i {
			if proportional(m.self, scales[i], metrics[j].self, scales[j]) {
				same = j + 1
				break
			}
		}
		e.uvarint(uint64(scales[i]))
		e.uvarint(uint64(same))
		if same != 0 {
			continue
		}
		for _, v := range m.self {
			e.uvarint(uint64(v / scales[i]))
		}
	}
}

// commonDivisor is the greatest of all values, 1 where all are 0.
func commonDivisor(values []int64) int64 {
	var d int64
	for _, v := range values {
		for v != 0 {
			d, v = v, d%v
		}
		if d == 1 {
			break
		}
	}
	return max(d, 1)
}

func proportional(a []int64, scaleA int64, b []int64, scaleB int64) bool {
	for i := range a {
		if a[i]/scaleA != b[i]/scaleB {
			return false
		}
	}
	return true
}
