package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/view"
	"github.com/keytrail/keytrail/proto/event"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// errorDomain is the domain of google.rpc.ErrorInfo.
const errorDomain = "keytrail.dev"

// retryAfter is what RetryInfo tells a caller whom the pool refused: some batches later.
const retryAfter = 100 * time.Millisecond

// fieldError is a request that is wrong in one field.
type fieldError struct{ field, reason string }

func (e *fieldError) Error() string { return e.field + " " + e.reason }

// toStatus turns an error into what a caller may see. What the caller cannot act upon is
// logged under an id, and the caller sees only the id.
func (s *Server) toStatus(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var invalid *event.InvalidError
	var conflict *log.ConflictError
	var field *fieldError
	var argument *view.ArgumentError
	switch {
	case errors.As(err, &invalid):
		return invalidStatus(invalid.Violations)
	case errors.As(err, &field):
		return withDetails(codes.InvalidArgument, err.Error(),
			badRequest([]event.Violation{{Field: field.field, Reason: field.reason}}))
	case errors.As(err, &conflict):
		return withDetails(codes.AlreadyExists, err.Error(), &errdetails.ErrorInfo{
			Reason: "EVENT_ID_CONFLICT", Domain: errorDomain,
			Metadata: map[string]string{"index": strconv.FormatUint(conflict.Index, 10)},
		})
	case errors.Is(err, log.ErrOverloaded):
		after := retryAfter
		if tenant, ok := errors.AsType[*log.OverloadError](err); ok {
			after = max(after, tenant.RetryAfter)
		}
		return withDetails(codes.ResourceExhausted, err.Error(), &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	case errors.Is(err, log.ErrUnpublished):
		return status.Error(codes.OutOfRange, err.Error())
	case errors.Is(err, log.ErrErased):
		return withDetails(codes.NotFound, err.Error(), &errdetails.ErrorInfo{Reason: "ERASED", Domain: errorDomain})
	case errors.As(err, &argument):
		return withDetails(codes.InvalidArgument, err.Error(),
			badRequest([]event.Violation{{Field: argument.Field, Reason: argument.Reason}}))
	case errors.Is(err, view.ErrBehind), errors.Is(err, view.ErrDamaged):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, log.ErrStopping):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, log.ErrStopped):
		// The cause names files and devices: it is the operator's.
		return status.Error(codes.Unavailable, log.ErrStopped.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	if st, ok := status.FromError(err); ok {
		return st.Err()
	}
	id := rand.Text()
	s.logger.ErrorContext(ctx, "request failed", slog.String("request_id", id), slog.Any("error", err))
	return status.Errorf(codes.Internal, "internal error; the server's log has it under request_id %s", id)
}

// maxViolations bounds what is said about one request: status and details travel in HTTP
// headers, of which clients take 8 KiB.
const maxViolations = 20

func invalidStatus(vs []event.Violation) error {
	more := len(vs) - maxViolations
	if more > 0 {
		vs = vs[:maxViolations]
	}
	msg := (&event.InvalidError{Violations: vs}).Error()
	if more > 0 {
		msg += fmt.Sprintf("; and %d more", more)
	}
	return withDetails(codes.InvalidArgument, msg, badRequest(vs))
}

func badRequest(vs []event.Violation) *errdetails.BadRequest {
	b := &errdetails.BadRequest{}
	for _, v := range vs {
		b.FieldViolations = append(b.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Reason})
	}
	return b
}

func withDetails(code codes.Code, msg string, detail proto.Message) error {
	st := status.New(code, msg)
	// Details cannot fail for a code other than OK and a known message.
	if with, err := st.WithDetails(protoadapt.MessageV1Of(detail)); err == nil {
		st = with
	}
	return st.Err()
}

// appendError is the answer to one event of several.
func (s *Server) appendError(ctx context.Context, err error) *rpc.AppendError {
	st, _ := status.FromError(s.toStatus(ctx, err))
	e := &rpc.AppendError{Code: int32(st.Code()), Message: st.Message()}
	for _, d := range st.Details() {
		if b, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range b.GetFieldViolations() {
				e.FieldViolations = append(e.FieldViolations, &rpc.FieldViolation{Field: v.GetField(), Description: v.GetDescription()})
			}
		}
	}
	var conflict *log.ConflictError
	if errors.As(err, &conflict) {
		e.ExistingIndex = &conflict.Index
	}
	return e
}
