package flamegraph

import (
	"cmp"
	"slices"
)

// A box is a node that the static layer shows.
type box struct {
	node  int32
	depth int32
	x, w  int32 // tenths of a pixel; children lie within their parent
}

// layout returns the boxes of at least minBox tenths of a pixel when the root
// is width tenths wide, in preorder.
func layout(t *tree, width, minBox int32) []box {
	totals, ends := t.totals(t.shown), t.ends()
	scale := float64(width) / float64(max(totals[0], 1))
	boxes := []box{{node: 0, w: width}}

	// A level is an ancestor of the node at hand, and where its next child begins.
	type level struct {
		end int32
		at  int64
	}
	levels := []level{{end: ends[0]}}
	for n := int32(1); n < int32(len(totals)); {
		for n >= levels[len(levels)-1].end {
			levels = levels[:len(levels)-1]
		}
		parent := &levels[len(levels)-1]
		from, to := parent.at, parent.at+totals[n]
		parent.at = to
		x := tenths(from, scale)
		w := tenths(to, scale) - x
		if w < minBox {
			n = ends[n]
			continue
		}
		boxes = append(boxes, box{node: n, depth: int32(len(levels)), x: x, w: w})
		levels = append(levels, level{end: ends[n], at: from})
		n++
	}
	return boxes
}

// tenths rounds. The conversion of the product keeps compilers from fusing it
// with the sum, so that all architectures round alike.
func tenths(v int64, scale float64) int32 { return int32(float64(float64(v)*scale) + .5) }

// totals sums a metric of each node and all below it.
func (t *tree) totals(metric int) []int64 {
	totals := slices.Clone(t.metrics[metric].self)
	t.fold(func(parent, child int32) { totals[parent] += totals[child] })
	return totals
}

// ends gives for each node the first one behind it and all below it.
func (t *tree) ends() []int32 {
	ends := make([]int32, len(t.frame))
	for n := range ends {
		ends[n] = int32(n) + 1
	}
	t.fold(func(parent, child int32) { ends[parent] = max(ends[parent], ends[child]) })
	return ends
}

// fold calls f for each pair of parent and child, deeper and later pairs
// first.
func (t *tree) fold(f func(parent, child int32)) {
	// Backwards, the subtrees that are done and have no parent yet stand on a
	// stack, and a node's own children are its top.
	var done []int32
	for n := int32(len(t.frame)) - 1; n >= 0; n-- {
		keep := len(done) - int(t.children[n])
		for _, child := range done[keep:] {
			f(n, child)
		}
		done = append(done[:keep], n)
	}
}

// A hot is a frame and what it took itself, summed over the tree.
type hot struct {
	frame int32
	self  int64
}

// hottest lists at most limit frames, largest first, in the shown metric.
func (t *tree) hottest(limit int) []hot {
	sums := make([]hot, len(t.frames))
	for i := range sums {
		sums[i].frame = int32(i)
	}
	for n, v := range t.metrics[t.shown].self {
		sums[t.frame[n]].self += v
	}
	sums = slices.DeleteFunc(sums, func(h hot) bool { return h.self == 0 })
	slices.SortFunc(sums, func(a, b hot) int {
		return cmp.Or(cmp.Compare(b.self, a.self), cmp.Compare(a.frame, b.frame))
	})
	return sums[:min(limit, len(sums))]
}
