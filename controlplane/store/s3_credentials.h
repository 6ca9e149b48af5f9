/* s3_credentials: the key pair that signs, from the environment, a file of the AWS tools, or the
 * metadata service of an instance.
 *
 *   none --want--> fetching --> ready(until) --expire or its time--> none
 *                       \--> failed --want--> fetching
 *
 * Threads: the loop's. The secret stays here and in the signature's stack; it is never in a text.
 */
#ifndef MAROON_S3_CREDENTIALS_H
#define MAROON_S3_CREDENTIALS_H

#include <stdbool.h>
#include <stdint.h>

#include "controlplane/http_client.h"

#define S3_ACCESS_KEY_MAX 192
#define S3_SECRET_KEY_MAX 192
#define S3_TOKEN_MAX 4096

struct s3_keys {
    char access_key[S3_ACCESS_KEY_MAX], secret_key[S3_SECRET_KEY_MAX];
    char token[S3_TOKEN_MAX]; /* session token, "" when there is none */
    int64_t expires_s;        /* Unix time; 0: never */
};

struct s3_credentials;

/* error 0: s3_credentials_keys() has keys. Otherwise MRN_ERR_DENIED (there are none, or they are
 * malformed) or MRN_ERR_UNAVAILABLE (no metadata service), and a sentence. */
typedef void (*s3_credentials_done)(void *context, int error, const char *text);

/* The strings as in struct object_store_config; copied. NULL without memory. */
struct s3_credentials *s3_credentials_create(struct loop *loop, struct http_client *http,
                                             const char *file, const char *profile,
                                             const char *metadata_url);
void s3_credentials_destroy(struct s3_credentials *credentials);

/* The keys, NULL when there are none that are valid now: then ask with s3_credentials_want. */
const struct s3_keys *s3_credentials_keys(struct s3_credentials *credentials);
/* Fetches; `done` comes once, never before this returns. One fetch at a time: false when one is
 * under way, and then nothing is called. */
bool s3_credentials_want(struct s3_credentials *credentials, s3_credentials_done done,
                         void *context);
/* The keys were refused: they are read anew at the next want. */
void s3_credentials_expire(struct s3_credentials *credentials);

/* The two parsers, for tests. Both return 0, MRN_ERR_NOT_FOUND (the profile) or MRN_ERR_MALFORMED.
 */
int s3_credentials_read_ini(const char *text, const char *profile, struct s3_keys *ret_keys);
int s3_credentials_read_json(const char *text, struct s3_keys *ret_keys);

#endif
