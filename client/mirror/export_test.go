package mirror

// Cut makes every step of writing fail from the one for which fn returns an error.
func (m *Mirror) Cut(fn func(step string) error) { m.cut = fn }

// ParsePayloadPath and PayloadPath are for the fuzz test.
var (
	ParsePayloadPath = parsePayloadPath
	PayloadPath      = payloadPath
)
