package flamegraph

import (
	"strings"
	"unicode/utf8"
)

// The viewer shortens names by the same rules: viewer.js, section "labels".
// testdata/labels.json holds both to them.

// maxLabel bounds the work spent on one name, in bytes.
const maxLabel = 1024

// fitLabel shortens name to at most cells character cells: first by leaving
// out what says least, then by cutting. It returns "" where less than three
// characters fit.
func fitLabel(name string, cells int) string {
	if cells < 3 {
		return ""
	}
	forms := shortForms(name)
	for _, s := range forms {
		if cellWidth(s) <= cells {
			return s
		}
	}
	return cutLabel(forms[len(forms)-1], cells)
}

// cutLabel cuts s to at most cells character cells.
func cutLabel(s string, cells int) string {
	width, cut := 0, 0
	for i, r := range s {
		if width < cells {
			cut = i
		}
		width += runeWidth(r)
		if width > cells {
			return s[:cut] + "…"
		}
	}
	return s
}

func cellWidth(s string) int {
	width := 0
	for _, r := range s {
		width += runeWidth(r)
	}
	return width
}

// runeWidth takes everything from the CJK radicals on as double.
func runeWidth(r rune) int {
	if r >= 0x2e80 && r != utf8.RuneError {
		return 2
	}
	return 1
}

// shortForms lists name and ever shorter forms of it.
func shortForms(name string) []string {
	if len(name) > maxLabel {
		name = strings.ToValidUTF8(name[:maxLabel], "")
	}
	forms := []string{name}
	add := func(s string) {
		if s != "" && len(s) < len(forms[len(forms)-1]) {
			forms = append(forms, s)
		}
	}
	if reason, ok := strings.CutPrefix(name, "[unknown: "); ok {
		add("[" + reason)
		return forms
	}
	s := dropArguments(dropPlace(name))
	add(s)
	s = dropTypeArguments(trimCompilerSuffix(s))
	add(s)
	if strings.ContainsAny(s, " ") || strings.HasPrefix(s, "[") {
		return forms
	}
	if i := lastOutside(s, "/"); i >= 0 {
		s = s[i+1:]
		add(s)
	}
	for {
		i, n := nextSeparator(s)
		if i < 0 || i+n >= len(s) {
			return forms
		}
		s = s[i+n:]
		add(s)
	}
}

// dropPlace drops where a script function stands: "py::f:/a/b.py", "JS:*f /a/b.js:1".
func dropPlace(s string) string {
	for _, mark := range []string{" /", ":/", " node:", " file:"} {
		if i := strings.Index(s, mark); i > 0 {
			s = s[:i]
		}
	}
	return s
}

// dropArguments drops the argument list and the return type that demangled
// C++ names have, and keeps "(anonymous namespace)", "(*T)" and operators.
func dropArguments(s string) string {
	t := strings.TrimSuffix(s, " const")
	if !strings.HasSuffix(t, ")") {
		return s
	}
	depth, open := 0, -1
	for i := len(t) - 1; i >= 0; i-- {
		if t[i] == ')' {
			depth++
		} else if t[i] == '(' {
			if depth--; depth == 0 {
				open = i
				break
			}
		}
	}
	if open <= 0 || t[open-1] == ':' || t[open-1] == '.' || strings.HasSuffix(t[:open], "operator") {
		return s
	}
	t = t[:open]
	if i := lastOutside(t, " "); i >= 0 && !strings.Contains(t, "operator") {
		t = t[i+1:]
	}
	return t
}

// dropTypeArguments drops <...> and [...], and keeps the type of Rust's
// "<T as Trait>::f". Names whose brackets do not pair are left alone.
func dropTypeArguments(s string) string {
	if strings.Contains(s, "operator") || strings.Contains(s, "->") || strings.HasPrefix(s, "[") {
		return s
	}
	if strings.HasPrefix(s, "<") {
		if i := strings.Index(s, " as "); i > 0 {
			if j := strings.Index(s, ">::"); j > i {
				s = s[1:i] + s[j+1:]
			}
		}
	}
	out := make([]byte, 0, len(s))
	depth := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '<' || c == '[':
			depth++
		case c == '>' || c == ']':
			if depth--; depth < 0 {
				return s
			}
		case depth == 0:
			out = append(out, c)
		}
	}
	if n := len(out); depth != 0 || n == 0 || out[n-1] == ':' || out[n-1] == '.' {
		return s // such as "Type.<init>", "<module>"
	}
	return string(out)
}

// lastOutside finds the last c in s outside of all brackets, or -1.
func lastOutside(s, c string) int {
	depth := 0
	for i := len(s) - 1; i >= 0; i-- {
		switch {
		case strings.IndexByte(")]}>", s[i]) >= 0:
			depth++
		case strings.IndexByte("([{<", s[i]) >= 0:
			depth--
		case depth == 0 && s[i] == c[0]:
			return i
		}
	}
	return -1
}

// nextSeparator finds the first "::" or "." in s outside of all brackets and
// not at its begin, and how long it is. It returns -1 where there is none.
func nextSeparator(s string) (at, length int) {
	depth := 0
	for i := range len(s) {
		switch {
		case strings.IndexByte("([{<", s[i]) >= 0:
			depth++
		case strings.IndexByte(")]}>", s[i]) >= 0:
			depth--
		case depth != 0 || i == 0:
		case s[i] == '.':
			return i, 1
		case s[i] == ':' && strings.HasPrefix(s[i:], "::"):
			return i, 2
		}
	}
	return -1, 0
}
