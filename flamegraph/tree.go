package flamegraph

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/google/pprof/profile"

	"hotframe/internal/frames"
)

// ErrNegative is returned for a profile with negative values, such as the
// difference of two: no width stands for them.
var ErrNegative = errors.New("negative sample value")

// A tree is a profile merged from the root, as columns over its nodes in
// preorder. Node 0 is the root. Children are ordered by name, bytewise.
type tree struct {
	frames  []frame  // the frames of all nodes; those with the most nodes first
	metrics []metric // one for each sample type of the profile
	shown   int      // index of the metric that the widths stand for

	frame    []int32 // of each node, index in frames
	children []int32 // of each node, their number
}

// A frame is what siblings are told apart by, and its colour.
type frame struct {
	name string // valid UTF-8
	kind kind
}

type metric struct {
	typ, unit string
	self      []int64 // of each node, without its children; not negative
	total     int64   // sum of self, at most MaxInt64
}

// frameKey makes two frames one. The kernel's read is not libc's, but that the
// same function has line numbers here and none there tells nothing.
type frameKey struct {
	name  string
	level level
}

type level uint8

const (
	levelProcess level = iota
	levelKernel
	levelUser
)

const rootName = "all"

func newTree(p *profile.Profile) (*tree, error) {
	if err := p.CheckValid(); err != nil {
		return nil, err
	}
	b := newBuilder(p)
	for _, s := range p.Sample {
		if err := b.add(s); err != nil {
			return nil, err
		}
	}
	return b.tree(shownMetric(p)), nil
}

// shownMetric is cpu/nanoseconds, else the profile's own default, else the last.
func shownMetric(p *profile.Profile) int {
	shown := len(p.SampleType) - 1
	for i, t := range p.SampleType {
		if t.Type == "cpu" && t.Unit == "nanoseconds" {
			return i
		}
		if t.Type == p.DefaultSampleType {
			shown = i
		}
	}
	return max(shown, 0)
}

// A builder merges stacks in the order they come, into nodes that are numbered
// in the order they appear.
type builder struct {
	frames  []frame
	level   []level // of frames
	ids     map[frameKey]int32
	ofLoc   map[*profile.Location][]int32 // outermost first
	hasComm bool
	scratch []frames.Frame

	metrics []metric
	frame   []int32 // of each node
	parent  []int32 // of each node; less than the node itself
	recent  []int32 // of each node, the child last asked for, or 0: stacks come in runs
	index   childIndex
}

func newBuilder(p *profile.Profile) *builder {
	b := &builder{
		ids:     make(map[frameKey]int32),
		ofLoc:   make(map[*profile.Location][]int32),
		hasComm: frames.HasComm(p),
	}
	for _, t := range p.SampleType {
		b.metrics = append(b.metrics, metric{typ: valid(t.Type), unit: valid(t.Unit)})
	}
	if len(b.metrics) == 0 { // a profile without samples may lack types
		b.metrics = []metric{{typ: "samples", unit: "count"}}
	}
	b.newNode(-1, b.intern(frame{rootName, kindProcess}, levelProcess))
	return b
}

func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

// intern numbers a frame. Of several kinds for one frame the first that is not
// the fallback stands.
func (b *builder) intern(f frame, l level) int32 {
	key := frameKey{f.name, l}
	id, ok := b.ids[key]
	if !ok {
		id = int32(len(b.frames))
		b.ids[key] = id
		b.frames = append(b.frames, f)
		b.level = append(b.level, l)
	} else if b.frames[id].kind == kindNative {
		b.frames[id].kind = f.kind
	}
	return id
}

func (b *builder) add(s *profile.Sample) error {
	node := int32(0)
	if b.hasComm {
		f := frame{valid(frames.Comm(s)), kindProcess}
		if f.name == "" {
			f = frame{frames.UnknownComm, kindUnknown}
		}
		node = b.child(node, b.intern(f, levelProcess))
	}
	for i := len(s.Location) - 1; i >= 0; i-- {
		for _, f := range b.location(s.Location[i]) {
			node = b.child(node, f)
		}
	}
	for i, v := range s.Value {
		m := &b.metrics[i]
		if v < 0 {
			return fmt.Errorf("%s: %w", m.typ, ErrNegative)
		}
		if v > math.MaxInt64-m.total {
			return fmt.Errorf("sum of %s exceeds 64 bits", m.typ)
		}
		m.total += v
		m.self[node] += v
	}
	return nil
}

func (b *builder) location(l *profile.Location) []int32 {
	if ids, ok := b.ofLoc[l]; ok {
		return ids
	}
	b.scratch = frames.Append(b.scratch[:0], l)
	ids := make([]int32, len(b.scratch))
	for i, f := range b.scratch {
		lv := levelUser
		if f.Kernel() {
			lv = levelKernel
		}
		ids[i] = b.intern(frame{valid(f.Name), kindOf(f)}, lv)
	}
	b.ofLoc[l] = ids
	return ids
}

func (b *builder) newNode(parent, f int32) int32 {
	b.parent = append(b.parent, parent)
	b.frame = append(b.frame, f)
	b.recent = append(b.recent, 0)
	for i := range b.metrics {
		b.metrics[i].self = append(b.metrics[i].self, 0)
	}
	return int32(len(b.frame) - 1)
}

// child finds or makes the child of parent that is a call of f.
func (b *builder) child(parent, f int32) int32 {
	if n := b.recent[parent]; n != 0 && b.frame[n] == f {
		return n
	}
	key := uint64(uint32(parent))<<32 | uint64(uint32(f))
	node := b.index.find(key)
	if *node == 0 {
		*node = b.newNode(parent, f) // never 0: the root is nobody's child
	}
	b.recent[parent] = *node
	return *node
}

// A childIndex finds nodes by parent and frame: open addressing with linear
// probing, at most half full, which a lookup reads one cache line of.
type childIndex struct {
	slots []childSlot // the length is a power of two
	used  int
}

type childSlot struct {
	key  uint64 // parent<<32 | frame
	node int32  // 0 marks a free slot
}

// find returns where the node of key stands. It is 0 if there is none yet; the
// caller then fills it in.
func (x *childIndex) find(key uint64) *int32 {
	if 2*x.used >= len(x.slots) {
		x.grow()
	}
	slot := x.probe(key)
	if slot.node == 0 {
		slot.key = key
		x.used++
	}
	return &slot.node
}

// probe returns the slot of key, or the free one where it belongs.
func (x *childIndex) probe(key uint64) *childSlot {
	mask := uint64(len(x.slots) - 1)
	for i := mix(key) & mask; ; i = (i + 1) & mask {
		if s := &x.slots[i]; s.node == 0 || s.key == key {
			return s
		}
	}
}

func (x *childIndex) grow() {
	old := x.slots
	x.slots = make([]childSlot, max(1024, 2*len(old)))
	for _, s := range old {
		if s.node != 0 {
			*x.probe(s.key) = s
		}
	}
}

// mix is the finalizer of SplitMix64.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// tree brings the nodes into preorder with children by name, and the frames
// into order of frequency.
func (b *builder) tree(shown int) *tree {
	order, children := b.preorder()
	t := &tree{shown: shown, children: children, frame: make([]int32, len(order))}
	frames, renumber := b.byFrequency()
	t.frames = frames
	for i, n := range order {
		t.frame[i] = renumber[b.frame[n]]
	}
	for _, m := range b.metrics {
		self := make([]int64, len(order))
		for i, n := range order {
			self[i] = m.self[n]
		}
		t.metrics = append(t.metrics, metric{m.typ, m.unit, self, m.total})
	}
	return t
}

// preorder lists the nodes in preorder, and how many children each has.
func (b *builder) preorder() (order, children []int32) {
	// Going through the nodes by descending name and putting each before the
	// siblings it already has leaves all lists of siblings ascending.
	first := make([]int32, len(b.frame)) // child, or 0
	next := make([]int32, len(b.frame))  // sibling, or 0
	count := make([]int32, len(b.frame))
	for _, n := range slices.Backward(b.byName()) {
		if p := b.parent[n]; p >= 0 {
			next[n], first[p] = first[p], n
			count[p]++
		}
	}
	order = make([]int32, 0, len(b.frame))
	children = make([]int32, 0, len(b.frame))
	for n := int32(0); n >= 0; {
		order = append(order, n)
		children = append(children, count[n])
		if first[n] != 0 {
			n = first[n]
			continue
		}
		for n >= 0 && next[n] == 0 {
			n = b.parent[n]
		}
		if n >= 0 {
			n = next[n]
		}
	}
	return order, children
}

// byName lists the nodes by the name of their frame: a counting sort.
func (b *builder) byName() []int32 {
	byName := make([]int32, len(b.frames))
	for i := range byName {
		byName[i] = int32(i)
	}
	slices.SortFunc(byName, b.compareNames)
	nodes := b.frequency()
	at := make([]int32, len(b.frames)) // where the next node of the frame goes
	sum := int32(0)
	for _, f := range byName {
		at[f] = sum
		sum += nodes[f]
	}
	sorted := make([]int32, len(b.frame))
	for n, f := range b.frame {
		sorted[at[f]] = int32(n)
		at[f]++
	}
	return sorted
}

func (b *builder) compareNames(x, y int32) int {
	return cmp.Or(
		strings.Compare(b.frames[x].name, b.frames[y].name),
		cmp.Compare(b.level[x], b.level[y]))
}

// frequency counts the nodes of each frame.
func (b *builder) frequency() []int32 {
	nodes := make([]int32, len(b.frames))
	for _, f := range b.frame {
		nodes[f]++
	}
	return nodes
}

// byFrequency returns the frames with those of most nodes first, and the new
// number of each.
func (b *builder) byFrequency() (sorted []frame, renumber []int32) {
	nodes := b.frequency()
	order := make([]int32, len(b.frames))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(x, y int32) int {
		return cmp.Or(cmp.Compare(nodes[y], nodes[x]), b.compareNames(x, y))
	})
	renumber = make([]int32, len(order))
	for i, f := range order {
		sorted = append(sorted, b.frames[f])
		renumber[f] = int32(i)
	}
	return sorted, renumber
}
