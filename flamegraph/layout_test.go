package flamegraph

import (
	"slices"
	"testing"
)

func TestTotalsAndEnds(t *testing.T) {
	m := newMaker()
	m.addNames("", 1, "a")
	m.addNames("", 2, "a", "b")
	m.addNames("", 4, "a", "c", "d")
	m.addNames("", 8, "e")
	tr := mustTree(t, &m.p) // all a b c d e
	if got, want := tr.totals(0), []int64{15, 7, 2, 4, 4, 8}; !slices.Equal(got, want) {
		t.Errorf("totals %v, want %v", got, want)
	}
	if got, want := tr.ends(), []int32{6, 5, 3, 5, 5, 6}; !slices.Equal(got, want) {
		t.Errorf("ends %v, want %v", got, want)
	}
}

func TestLayout(t *testing.T) {
	m := newMaker()
	m.addNames("", 50, "a") // own samples stand right of the children
	m.addNames("", 25, "a", "b")
	m.addNames("", 24, "c")
	m.addNames("", 1, "d", "too narrow")
	got := layout(mustTree(t, &m.p), 1000, 11)
	want := []box{
		{node: 0, depth: 0, x: 0, w: 1000},
		{node: 1, depth: 1, x: 0, w: 750},
		{node: 2, depth: 2, x: 0, w: 250},
		{node: 3, depth: 1, x: 750, w: 240},
	}
	if !slices.Equal(got, want) {
		t.Errorf("layout = %+v, want %+v", got, want)
	}
}

func TestLayoutKeepsChildrenWithinParents(t *testing.T) {
	tr := mustTree(t, manyStacks(2_000))
	var path []box
	for _, b := range layout(tr, 11800, 1) {
		path = path[:b.depth]
		if b.depth > 0 {
			parent := path[b.depth-1]
			if b.x < parent.x || b.x+b.w > parent.x+parent.w {
				t.Fatalf("box %+v is not within its parent %+v", b, parent)
			}
		}
		path = append(path, b)
	}
}

func TestHottest(t *testing.T) {
	m := newMaker()
	m.addNames("", 3, "a", "b")
	m.addNames("", 4, "c", "b")
	m.addNames("", 5, "a")
	m.addNames("", 0, "zero")
	tr := mustTree(t, &m.p)
	var got []string
	for _, h := range tr.hottest(10) {
		got = append(got, tr.frames[h.frame].name)
	}
	if want := []string{"b", "a"}; !slices.Equal(got, want) {
		t.Errorf("hottest %q, want %q", got, want)
	}
	if got := tr.hottest(1); len(got) != 1 || got[0].self != 7*period {
		t.Errorf("hottest(1) = %+v, want one of %d", got, 7*period)
	}
}
