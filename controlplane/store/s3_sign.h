/* s3_sign: signs an HTTP request as AWS Signature Version 4 wants it.
 *
 * Pure: the time comes from the caller. Ownership: keeps no pointer. Threads: any.
 * Source: AWS General Reference, "Signature Version 4 signing process": canonical request, string
 * to sign, signing key, signature. */
#ifndef MAROON_S3_SIGN_H
#define MAROON_S3_SIGN_H

#include <stddef.h>
#include <stdint.h>

#define S3_SHA256_HEX 65 /* with its NUL */
#define S3_TIME_TEXT 17  /* 20260131T235959Z */

struct s3_field { /* of a header or of the query; names of headers in small letters */
    const char *name, *value;
};

struct s3_signed_request {
    const char *method;
    const char *path;       /* as sent, percent-encoded once, begins with '/' */
    struct s3_field *query; /* not encoded; sorted in place */
    size_t query_count;
    struct s3_field *headers; /* all that are to be signed, `host` and x-amz-date among them; sorted
                                 in place */
    size_t header_count;
    const char *payload_sha256; /* in hex, or a word like UNSIGNED-PAYLOAD */
    const char *access_key, *secret_key, *region, *service;
    const char *time; /* S3_TIME_TEXT */
};

/* Writes the value of the Authorization header. Returns 0, or MRN_ERR_FULL when `room` or the inner
 * buffer (16 KiB for the canonical request) is too small. */
int s3_sign(struct s3_signed_request *request, char *ret_authorization, size_t room);

void s3_sha256_hex(const void *bytes, size_t count, char ret_hex[S3_SHA256_HEX]);
void s3_time_text(int64_t unix_s, char ret_time[S3_TIME_TEXT]);

/* Percent-encodes all but [A-Za-z0-9._~-], and '/' too unless `keep_slash`. Returns the length, or
 * a negative MRN_ERR_FULL. */
int s3_encode(const char *text, int keep_slash, char *ret_text, size_t room);
/* "a=b&c=" of the sorted query, as it is signed and sent. The same errors. */
int s3_encode_query(struct s3_field *query, size_t count, char *ret_text, size_t room);

#endif
