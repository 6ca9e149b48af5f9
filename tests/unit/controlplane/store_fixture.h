/* store_fixture: a real S3 server (s3rver) behind the proxy that does harm (tests/store), and calls
 * of an object store that wait for their end. What was started ends with the test's process. */
#ifndef MAROON_TEST_STORE_FIXTURE_H
#define MAROON_TEST_STORE_FIXTURE_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "controlplane/store/object_store.h"

#define STORE_BUCKET "dumps"
#define STORE_ACCESS_KEY "S3RVER" /* the only one that s3rver knows */
#define STORE_SECRET_KEY "S3RVER/secret+key"

struct store_server {
    pid_t server, proxy;
    int server_port, port; /* port: the proxy's */
    FILE *to_proxy, *from_proxy;
    char dir[64]; /* objects are below dir/dumps */
};

/* False, with a word on stderr, when there is no s3rver here. `tls_dir`: with cert.pem and key.pem,
 * the server itself then speaks TLS, and there is no proxy; NULL: plain. */
bool store_server_start(struct store_server *server, const char *tls_dir);
void store_server_stop(struct store_server *server);
/* A line to the proxy, which must obey. */
void store_fault(struct store_server *server, const char *line);
/* A number of the proxy's statistics, by its name, or 0. */
uint64_t store_stat(struct store_server *server, const char *group, const char *name);

struct store_result {
    bool done;
    int error;
    char text[2048];
    uint8_t *bytes;
    uint64_t size_bytes, modified_ms;
    int count;         /* list: entries */
    char names[16384]; /* list: names, sorted by none, each with a space behind */
};

struct store_client {
    struct loop *loop;
    struct http_client *http;
    struct object_store *store;
};

/* Through the proxy unless config->endpoint is set; quick retries unless config says otherwise. */
void store_client_open(struct store_client *client, const struct store_server *server,
                       const struct object_store_config *config);
void store_client_close(struct store_client *client);

/* Each waits for its end, at most 30 s. The result is valid until the next call. */
struct store_result *store_put(struct store_client *client, const char *name, const void *bytes,
                               size_t count, bool skip_if_same);
struct store_result *store_get(struct store_client *client, const char *name, uint64_t max_bytes);
struct store_result *store_head(struct store_client *client, const char *name);
struct store_result *store_list(struct store_client *client, const char *prefix);
struct store_result *store_remove(struct store_client *client, const char *name);
struct store_result *store_clean(struct store_client *client, uint64_t older_s);
void store_run(struct store_client *client, const bool *done, int limit_ms);
/* The done callback of all these, for calls started by hand: context is a struct store_result. */
void store_take(void *context, struct object_store_answer *answer);

/* count bytes that differ with `seed`, malloc'ed. */
uint8_t *store_bytes(size_t count, uint32_t seed);

#endif
