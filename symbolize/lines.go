package symbolize

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// maxLine bounds a line of kallsyms or of a perf map. The rest of a longer one
// is skipped.
const maxLine = 64 << 10

// eachLine calls visit with the lines of r, without their newlines. A last
// line without a newline is left out: its writer is not done with it.
func eachLine(r io.Reader, visit func(line []byte) error) error {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !long {
			return ignoreEOF(err)
		}
		if err := visit(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return err
		}
		for long {
			_, err := br.ReadSlice('\n')
			long = errors.Is(err, bufio.ErrBufferFull)
			if err != nil && !long {
				return ignoreEOF(err)
			}
		}
	}
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// parseHex reads a hexadecimal number at the start of b.
func parseHex(b []byte) (v uint64, rest []byte, ok bool) {
	if len(b) > 2 && b[0] == '0' && (b[1] == 'x' || b[1] == 'X') {
		b = b[2:]
	}
	i := 0
	for ; i < len(b); i++ {
		c := b[i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return v, b[i:], i > 0
		}
		if v>>60 != 0 {
			return 0, nil, false
		}
		v = v<<4 | uint64(c)
	}
	return v, nil, i > 0
}
