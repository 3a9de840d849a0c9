package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keytrail/keytrail/cmd/keytrail/bench/load"
)

// postgres is a database cluster of this run's, reached through a socket in its directory.
type postgres struct {
	bin, dir string
	as       *syscall.Credential // whom it runs as, when that is not this user
	cmd      *exec.Cmd
}

var errNotInstalled = errors.New("not installed")

// findPostgres returns the directory of PostgreSQL's programs.
func findPostgres() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is good
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", errNotInstalled
}

// newPostgres makes a cluster below dir. The server refuses to run as root.
func newPostgres(ctx context.Context, dir string) (*postgres, error) {
	bin, err := findPostgres()
	if err != nil {
		return nil, err
	}
	p := &postgres{bin: bin, dir: filepath.Join(dir, "postgres")}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a directory: %w", err)
	}
	if os.Geteuid() == 0 {
		if p.as, err = unprivileged(); err != nil {
			return nil, err
		}
		if err := os.Chown(p.dir, int(p.as.Uid), int(p.as.Gid)); err != nil {
			return nil, fmt.Errorf("giving the database its directory: %w", err)
		}
	}
	init := p.command(ctx, "initdb", "-D", p.data(), "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale")
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("making a database: %w: %s", err, lastLine(string(out)))
	}
	return p, nil
}

func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			continue
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("no user to run the database as")
}

func (p *postgres) data() string { return filepath.Join(p.dir, "data") }

func (p *postgres) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, name), args...)
	cmd.Dir = p.dir
	if p.as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.as}
	}
	return cmd
}

// start starts the server: as Debian configures it, with more connections and memory to
// share, synced at every commit.
func (p *postgres) start(ctx context.Context) error {
	p.cmd = p.command(ctx, "postgres", "-D", p.data(), "-k", p.dir, "-c", "listen_addresses=", "-c", "max_connections=300",
		"-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB", "-c", "fsync=on", "-c", "synchronous_commit=on")
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("starting the database: %w", err)
	}
	for deadline := time.Now().Add(startWait); ; time.Sleep(50 * time.Millisecond) {
		conn, err := p.connect(ctx)
		if err == nil {
			return conn.Close(ctx)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.Join(fmt.Errorf("starting the database: %w", err), p.stop())
		}
	}
}

// stop ends the server and its sessions.
func (p *postgres) stop() error {
	if p.cmd == nil || p.cmd.ProcessState != nil {
		return nil
	}
	late := time.AfterFunc(stopWait, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("stopping the database: %w", err)
	}
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("stopping the database: %w", err)
	}
	return nil
}

func (p *postgres) connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, "host="+p.dir+" user=bench dbname=postgres")
}

// exec runs statements on a connection of their own.
func (p *postgres) exec(ctx context.Context, sql ...string) error {
	conn, err := p.connect(ctx)
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	for _, s := range sql {
		if _, err = conn.Exec(ctx, s); err != nil {
			err = fmt.Errorf("running %s: %w", s, err)
			break
		}
	}
	return errors.Join(err, conn.Close(ctx))
}

// The table is what an ordinary engineer would make of an audit trail: rows in order, the
// event as it is, found by tenant and key.
const (
	dropTable   = `DROP TABLE IF EXISTS events`
	createTable = `CREATE TABLE events (id bigserial PRIMARY KEY, tenant text NOT NULL, key text NOT NULL, body jsonb NOT NULL)`
	createIndex = `CREATE INDEX ON events (tenant, key)`
	insertOne   = `INSERT INTO events (tenant, key, body) VALUES ($1, $2, $3::jsonb)`
	insertMany  = `INSERT INTO events (tenant, key, body) SELECT t, k, b::jsonb FROM unnest($1::text[], $2::text[], $3::text[]) AS r (t, k, b)`
)

// postgresCell measures committed inserts of so many rows each.
func (b *bench) postgresCell(clients, rows int) func(context.Context) (outcome, error) {
	return func(ctx context.Context) (o outcome, err error) {
		if b.pg == nil {
			if b.pg, err = newPostgres(ctx, b.work); err != nil {
				return o, err
			}
		}
		if err := b.pg.start(ctx); err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, b.pg.stop()) }()
		if err := b.pg.exec(ctx, dropTable, createTable, createIndex, "CHECKPOINT"); err != nil {
			return o, err
		}
		r, err := load.Measure(ctx, b.unary(clients), func(n int) (func(context.Context) (int, error), error) {
			return b.inserter(ctx, n, rows)
		})
		if err != nil {
			return o, err
		}
		bytes, err := b.pg.bytesPerRow(ctx)
		if err != nil {
			return o, err
		}
		if err := b.pg.stop(); err != nil {
			return o, err
		}
		// The processor time of the server is that of its sessions too, which it waited for.
		return outcome{
			Value: r.Rate(), P50: r.P50, P99: r.P99,
			ServerCPU: processorTime(b.pg.cmd.ProcessState) * 1e6 / float64(r.All), ClientCPU: r.CPU * 1e6 / float64(r.Events),
			Note: fmt.Sprintf("%.0f B a row with its indexes", bytes),
		}, nil
	}
}

// inserter is one client of the database.
func (b *bench) inserter(ctx context.Context, n, rows int) (func(context.Context) (int, error), error) {
	conn, err := b.pg.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting to the database: %w", err)
	}
	events := b.random.New(n, b.Keys)
	if rows == 1 {
		var body []byte
		return func(ctx context.Context) (int, error) {
			var tenant, key string
			body, tenant, key = events.Row(body[:0])
			_, err := conn.Exec(ctx, insertOne, tenant, key, body)
			return 1, err
		}, nil
	}
	tenants, keys, bodies := make([]string, rows), make([]string, rows), make([]string, rows)
	var body []byte
	return func(ctx context.Context) (int, error) {
		for i := range rows {
			body, tenants[i], keys[i] = events.Row(body[:0])
			bodies[i] = string(body)
		}
		_, err := conn.Exec(ctx, insertMany, tenants, keys, bodies)
		return rows, err
	}, nil
}

// bytesPerRow is what table and indexes take on the disk, without the write-ahead log.
func (p *postgres) bytesPerRow(ctx context.Context) (float64, error) {
	conn, err := p.connect(ctx)
	if err != nil {
		return 0, fmt.Errorf("connecting to the database: %w", err)
	}
	var size float64
	err = conn.QueryRow(ctx, `SELECT pg_total_relation_size('events')::float8 / greatest(count(*), 1) FROM events`).Scan(&size)
	return size, errors.Join(err, conn.Close(ctx))
}
