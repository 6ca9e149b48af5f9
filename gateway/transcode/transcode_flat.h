/* transcode_flat: a shorter way between JSON and protobuf for messages that hold nothing but uint64
 * fields (runtime/flat.h), as most calls are: no tree of JSON values, one allocation. Same bytes
 * and same text as transcode.c makes; whatever is not plain (an escape, a field twice, a number
 * with a sign, a leading zero or more than 18 digits, anything to refuse) is left to it. Threads:
 * any. */
#ifndef MAROON_TRANSCODE_FLAT_H
#define MAROON_TRANSCODE_FLAT_H

#include <stdbool.h>

#include "gateway/transcode/transcode.h"

/* As gateway_transcode_in and gateway_transcode_out. False: not plain, and nothing is given. */
bool gateway_flat_in(const ProtobufCMessageDescriptor *type, const char *json, size_t json_bytes,
                     uint8_t **ret_bytes, size_t *ret_length_bytes);
bool gateway_flat_out(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                      size_t length_bytes, char **ret_json);

#endif
