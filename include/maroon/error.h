/* maroon's errors: one negative enum made from error.def, with a sentence each.
 *
 * Functions that can fail return 0 or a count on success and one of these values otherwise; on
 * failure their out-parameters are untouched. Libraries return errors and never log. Any thread may
 * call. */
#ifndef MAROON_ERROR_H
#define MAROON_ERROR_H

enum mrn_error {
    MRN_OK = 0,
#define MRN_ERROR(name, value, sentence) MRN_ERR_##name = (value),
#include <maroon/error.def>
#undef MRN_ERROR
};

/* The sentence of `error` (any int that a maroon function returned; >= 0 gives "ok"). Never NULL;
 * static storage. */
const char *mrn_error_text(int error);

/* The short name of `error`, for logs and metrics ("timeout"). Never NULL; static storage. */
const char *mrn_error_name(int error);

#endif
