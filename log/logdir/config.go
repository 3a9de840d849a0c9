package logdir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/witness/feed"
)

const configFile = "config.yaml"

// Config is what config.yaml holds. A key that is not here is an error.
type Config struct {
	// Origin names the log for ever, in every checkpoint.
	Origin string `yaml:"origin"`
	// Ledger is the path of the signer's ledger, absolute or from the log's directory. It
	// should be on another disk than the store, and never in the store's backups.
	Ledger string `yaml:"ledger"`
	// GRPC is the address of the gRPC service, HTTP that of health and metrics. Addresses
	// other than loopback need TLS.
	GRPC string `yaml:"grpc"`
	HTTP string `yaml:"http"`
	// TLS of both.
	TLS TLS `yaml:"tls"`
	// MinInterval is the least time between two checkpoints.
	MinInterval time.Duration `yaml:"min_interval"`
	// Refresh is how old the published checkpoint of an idle log becomes before it is signed
	// and cosigned again.
	Refresh time.Duration `yaml:"refresh"`
	// Witness says how the witnesses of the policy are asked.
	Witness Witness `yaml:"witness"`
	// MaxPending is how many events may wait for the next batch before callers are refused.
	MaxPending int `yaml:"max_pending"`
	// MaxConnections is how many gRPC connections are open at a time; what comes beyond is
	// closed at once. The limit of open files can make it less.
	MaxConnections int `yaml:"max_connections"`
	// Quota bounds what one tenant appends, beyond the share of the pool that keeps room
	// for others at all times.
	Quota Quota `yaml:"quota,omitempty"`
}

// Quota is how many events tenants may append.
type Quota struct {
	// PerSecond is how many a second a tenant may append in the long run, and Burst how
	// many at once after a pause; 0 a second means no quota.
	PerSecond float64 `yaml:"per_second"`
	Burst     int     `yaml:"burst"`
	// Tenants have their own instead.
	Tenants map[string]TenantQuota `yaml:"tenants,omitempty"`
}

// TenantQuota is the quota of one tenant, as in Quota.
type TenantQuota struct {
	PerSecond float64 `yaml:"per_second"`
	Burst     int     `yaml:"burst"`
}

// Rates returns what log.Config takes as Quota: nil when nobody has one.
func (q Quota) Rates() func(tenant string) log.Rate {
	if q.PerSecond == 0 && len(q.Tenants) == 0 {
		return nil
	}
	return q.of
}

func (q Quota) of(tenant string) log.Rate {
	if t, ok := q.Tenants[tenant]; ok {
		return log.Rate(t)
	}
	return log.Rate{PerSecond: q.PerSecond, Burst: q.Burst}
}

// validate returns what is wrong and under which key.
func (q Quota) validate(add func(key string, err error)) {
	check := func(key string, r log.Rate) {
		if !(r.PerSecond >= 0 && r.PerSecond <= 1e9) {
			add(key+".per_second", fmt.Errorf("%v is not between 0 and 1e9", r.PerSecond))
		}
		if r.Burst < 0 || r.Burst > 1<<30 {
			add(key+".burst", fmt.Errorf("%d is not between 0 and %d", r.Burst, 1<<30))
		}
	}
	check("quota", q.of(""))
	for _, tenant := range slices.Sorted(maps.Keys(q.Tenants)) {
		if tenant == "" {
			add("quota.tenants", errors.New("a tenant has no name"))
		}
		check("quota.tenants."+tenant, q.of(tenant))
	}
}

// TLS names files in PEM, absolute or from the log's directory.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ClientCA, when set, demands a client certificate that it has signed; the
	// certificate's name becomes the producer of what its holder appends.
	ClientCA string `yaml:"client_ca"`
}

// Witness says how witnesses are asked.
type Witness struct {
	// Timeout is how long one request may take.
	Timeout time.Duration `yaml:"timeout"`
	// Grace is how long publication waits for further witnesses once the quorum is met. 0: not
	// at all; what they cosign is added while nothing newer is to be published.
	Grace time.Duration `yaml:"grace"`
	// PerDay is how many requests a day a witness allows this log ("qpd"), by the witness's
	// name in the policy. Witnesses that are not named have no limit.
	PerDay map[string]uint32 `yaml:"per_day,omitempty"`
}

// defaultMaxConnections costs about 300 MB of memory when all of them are idle.
const defaultMaxConnections = 16_384

// DefaultConfig is what Init writes.
func DefaultConfig(origin string) Config {
	return Config{
		Origin: origin, Ledger: "signer/ledger",
		GRPC: "127.0.0.1:7410", HTTP: "127.0.0.1:7411",
		MinInterval: log.DefaultMinInterval, MaxPending: log.DefaultMaxPending, MaxConnections: defaultMaxConnections,
		Refresh: log.DefaultRefresh, Witness: Witness{Timeout: feed.DefaultTimeout},
	}
}

// ParseConfig reads a configuration; what it leaves out has the default.
func ParseConfig(b []byte) (Config, error) {
	c := DefaultConfig("")
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	err := d.Decode(&c)
	var wrong *yaml.TypeError // names what was passed over; the rest is decoded
	switch {
	case errors.Is(err, io.EOF): // nothing but comments
		err = nil
	case err == nil && !errors.Is(d.Decode(new(yaml.Node)), io.EOF):
		err = errors.New("there is more than one document")
	case err != nil && !errors.As(err, &wrong):
		return c, err
	}
	return c, errors.Join(err, c.Validate())
}

func (c Config) encode() ([]byte, error) {
	b, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return append([]byte("# Configuration of a keytrail log. The origin is the log's name for ever: do not change it.\n"), b...), nil
}

// Validate returns all that is wrong, joined.
func (c Config) Validate() error {
	var errs []error
	add := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	add("origin", checkpoint.CheckName(c.Origin))
	if c.Ledger == "" {
		add("ledger", errors.New("is empty"))
	}
	add("grpc", CheckAddress(c.GRPC, c.TLS.Cert != ""))
	add("http", CheckAddress(c.HTTP, c.TLS.Cert != ""))
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		add("tls", errors.New("cert and key go together"))
	}
	if c.TLS.ClientCA != "" && c.TLS.Cert == "" {
		add("tls.client_ca", errors.New("needs cert and key"))
	}
	if c.MinInterval < 0 || c.MinInterval > time.Hour {
		add("min_interval", fmt.Errorf("%v is not between 0 and 1h", c.MinInterval))
	}
	for _, d := range []struct {
		key      string
		value    time.Duration
		min, max time.Duration
	}{
		{"refresh", c.Refresh, time.Second, 30 * 24 * time.Hour},
		{"witness.timeout", c.Witness.Timeout, time.Millisecond, time.Minute},
		{"witness.grace", c.Witness.Grace, 0, 10 * time.Second},
	} {
		if d.value < d.min || d.value > d.max {
			add(d.key, fmt.Errorf("%v is not between %v and %v", d.value, d.min, d.max))
		}
	}
	if c.MaxPending < log.MaxEvents || c.MaxPending > 1<<24 {
		add("max_pending", fmt.Errorf("%d is not between %d and %d", c.MaxPending, log.MaxEvents, 1<<24))
	}
	if c.MaxConnections < 1 || c.MaxConnections > 1<<20 {
		add("max_connections", fmt.Errorf("%d is not between 1 and %d", c.MaxConnections, 1<<20))
	}
	c.Quota.validate(add)
	return errors.Join(errs...)
}

// CheckAddress returns why the server may not listen on HOST:PORT: without TLS it listens
// on loopback only.
func CheckAddress(addr string, tls bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is no HOST:PORT: %w", addr, err)
	}
	if tls || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%q is not a loopback address: set tls.cert and tls.key to listen there", addr)
}
