package aggregate

import (
	"github.com/google/pprof/profile"

	"hotframe/sampler"
)

// appendStack appends the Locations of s, leaf first, and at least one: what
// is missing shows as a pseudo frame.
func (w *window) appendStack(to []*profile.Location, s *sampler.Sample) []*profile.Location {
	if k := s.Kernel; k != nil {
		for i := range k.Frames {
			to = append(to, w.kernelLocation(codeAddress(k.Frames, i)))
		}
		if !k.Stop.Whole() {
			to = append(to, w.unknown(k.Stop.String()))
		}
	}
	if s.User != nil {
		to = w.appendUser(to, s.Process, s.User)
	}
	if len(to) == 0 {
		to = append(to, w.unknown("no stack"))
	}
	return to
}

// appendUser appends the user half of a stack. Where code does not keep frame
// pointers the register holds anything, and a walk by them returns into data: the
// first caller that no executable mapping holds ends the stack, unless
// nothing is known of the process's mappings.
func (w *window) appendUser(to []*profile.Location, p *sampler.Process, u *sampler.Stack) []*profile.Location {
	for i := range u.Frames {
		addr := codeAddress(u.Frames, i)
		m := p.Lookup(addr)
		switch {
		case m != nil:
			at := w.position(p, m)
			to = append(to, w.location(at.mapping, uint64(addr)+at.shift))
		case i == 0 || len(p.Mappings()) == 0:
			to = append(to, w.location(nil, uint64(addr)))
		case u.Stop == sampler.StopUnmapped:
			return append(to, w.unknown(u.Stop.String()))
		default:
			return append(to, w.unknown(sampler.StopFPInvalid.String()))
		}
	}
	if !u.Stop.Whole() {
		to = append(to, w.unknown(u.Stop.String()))
	}
	return to
}

// codeAddress is an address within the instruction that frame i executes. A
// return address points behind the call, which may be the function's last
// instruction; one less lies inside it.
func codeAddress(frames []sampler.Addr, i int) sampler.Addr {
	a := frames[i]
	if i > 0 && a > 0 {
		a--
	}
	return a
}

func (w *window) location(m *profile.Mapping, addr uint64) *profile.Location {
	at := place{m, addr}
	l := w.locations[at]
	if l == nil {
		l = w.newLocation()
		l.Mapping, l.Address = m, addr
		w.locations[at] = l
	}
	return l
}

// unknown is the pseudo frame that stands for the frames missing for a reason.
func (w *window) unknown(reason string) *profile.Location {
	l := w.pseudo[reason]
	if l == nil {
		f := &profile.Function{
			ID:   uint64(len(w.profile.Function) + 1),
			Name: "[unknown: " + reason + "]",
		}
		w.profile.Function = append(w.profile.Function, f)
		l = w.newLocation()
		l.Line = []profile.Line{{Function: f}}
		w.pseudo[reason] = l
	}
	return l
}

func (w *window) newLocation() *profile.Location {
	l := &profile.Location{ID: uint64(len(w.profile.Location) + 1)}
	w.profile.Location = append(w.profile.Location, l)
	return l
}
