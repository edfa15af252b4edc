package symbolize

import (
	"strings"
	"testing"

	"hotframe/internal/object"
)

func TestVDSO(t *testing.T) {
	s := object.NewStore(object.Config{})
	defer s.Close()
	r, size, err := s.VDSO().Open()
	if err != nil {
		t.Skip(err)
	}
	h, err := object.ReadHeaders(r, size)
	if err != nil {
		t.Fatal(err)
	}
	f := elfFile{r, size, h}
	var all []symbol
	tables, err := f.tables()
	if err != nil {
		t.Fatal(err)
	}
	f.scan(tables[0], 0, func(s symbol) error { all = append(all, s); return nil })
	if len(all) == 0 {
		t.Fatal("no functions")
	}
	for _, sym := range all {
		q := queries(sym.start)
		if err := (symbols{f}).resolve(q); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(nameOf(q[0]), "vdso") && !strings.Contains(nameOf(q[0]), "kernel") && !strings.Contains(nameOf(q[0]), "get") && nameOf(q[0]) != "time" {
			t.Errorf("%#x: %q is no function of a vDSO", sym.start, nameOf(q[0]))
		}
	}
}
