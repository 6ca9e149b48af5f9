/* How a transaction ended: 0, or one of the sixteen codes of the Connect protocol.
 *
 * A code is part of a result: ordered, kept and repeated like its bytes. enum mrn_error, in
 * contrast, says why a call of ours failed; it never reaches a client. Any thread may call. */
#ifndef MAROON_CODE_H
#define MAROON_CODE_H

#include <stdint.h>

enum mrn_code {
#define MRN_CODE(name, value, text, http_status) MRN_CODE_##name = (value),
#include <maroon/code.def>
#undef MRN_CODE
};

#define MRN_CODE_COUNT 17

/* Connect's string of `code` ("failed_precondition"); "unknown" for a value of no code. Never NULL;
 * static storage. */
static inline const char *mrn_code_text(uint32_t code) {
    switch (code) {
#define MRN_CODE(name, value, text, http_status) \
case value:                                      \
    return text;
#include <maroon/code.def>
#undef MRN_CODE
    }
    return "unknown";
}

/* HTTP status that Connect maps `code` to; 500 for a value of no code. */
static inline uint32_t mrn_code_http_status(uint32_t code) {
    switch (code) {
#define MRN_CODE(name, value, text, http_status) \
case value:                                      \
    return http_status;
#include <maroon/code.def>
#undef MRN_CODE
    }
    return 500;
}

#endif
