package symbolize

import (
	"errors"

	"hotframe/internal/gotab"
)

// goFunctions is the resolver of Go's pclntab. In a program that is not Go's
// it knows nothing.
type goFunctions struct{ elfFile }

func (f goFunctions) resolve(q []query) error {
	t, err := gotab.Find(f.r, f.size, f.headers)
	if errors.Is(err, gotab.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	i, left := 0, maxNames
	err = t.Each(func(fn gotab.Func) bool {
		var in gotab.Info
		var name string
		var read bool
		for ; i < len(q) && uint64(q[i].addr) < fn.End; i++ {
			if uint64(q[i].addr) < fn.Entry || len(q[i].frames) > 0 {
				continue
			}
			if !read {
				var ok bool
				if in, ok = t.Info(fn); ok {
					name = string(t.Name(in))
				}
				read = true
				left -= len(name)
			}
			if name == "" || left < 0 {
				continue
			}
			file, line := t.Position(in, uint64(q[i].addr))
			q[i].frames = []frame{{name: name, file: file, startLine: in.StartLine, line: line}}
		}
		return i < len(q)
	})
	if err == nil && left < 0 {
		err = errNames
	}
	return err
}
