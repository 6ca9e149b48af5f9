/* transcode: proto3 JSON <-> protobuf bytes, by protobuf-c's descriptors (proto3 JSON mapping of
 * the protobuf documentation).
 *
 * In: lowerCamelCase and original field names; 64-bit integers as strings or numbers; bytes as
 * base64, standard or URL-safe, padded or not; enums by name or number; null = absent. Out:
 * lowerCamelCase, 64-bit integers as strings, scalars that are zero are printed. Whole
 * numbers have all their 64 bits, quoted or not; floats also "NaN", "Infinity", "-Infinity". Maps
 * and messages nested deeper than 32, in either form, are refused. Threads: any. Ownership: results
 * are malloc'ed, the caller frees them. Errors: enum mrn_error, with a sentence for the client. */
#ifndef MAROON_TRANSCODE_H
#define MAROON_TRANSCODE_H

#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#define TRANSCODE_TEXT_BYTES 256

/* Canonical protobuf bytes of a JSON object. MALFORMED, NO_MEMORY. */
int gateway_transcode_in(const ProtobufCMessageDescriptor *type, const char *json,
                         size_t json_bytes, uint8_t **ret_bytes, size_t *ret_length_bytes,
                         char *ret_error);

/* Canonical protobuf bytes of protobuf bytes: checked against the type. Same errors. */
int gateway_transcode_check(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                            size_t length_bytes, uint8_t **ret_bytes, size_t *ret_length_bytes,
                            char *ret_error);

/* JSON text (NUL-terminated) of protobuf bytes. Same errors. */
int gateway_transcode_out(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                          size_t length_bytes, char **ret_json);

#endif
