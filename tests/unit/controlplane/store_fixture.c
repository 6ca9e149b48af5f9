#include "store_fixture.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fixture.h"
#include "maroon/error.h"

static struct store_result result;

/* Starts argv with pipes at its standard input and output; *ret_in may be NULL. */
static pid_t start(char *const *argv, FILE **ret_in, FILE **ret_out) {
    int in[2], out[2];
    if (pipe(in) || pipe(out))
        exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(in[0], 0);
        dup2(out[1], 1);
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        execvp(argv[0], argv);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    *ret_in = fdopen(in[1], "w");
    *ret_out = fdopen(out[0], "r");
    return pid;
}

static bool installed(char *const *argv) {
    pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void wait_for_line(FILE *from, const char *word, char *ret_line, size_t room) {
    while (fgets(ret_line, (int)room, from))
        if (strstr(ret_line, word))
            return;
    fail_msg("the S3 server or its proxy did not start");
}

static bool start_s3rver(struct store_server *server, const char *source, const char *build,
                         const char *tls_dir) {
    char script[512], place[512], program[600], port[16], bucket[128], line[256];
    char certificate[128], key[128];
    snprintf(script, sizeof script, "%s/tests/store/install.sh", source);
    snprintf(place, sizeof place, "%s/s3rver", build);
    char *install[] = {(char *)"sh", script, place, NULL};
    if (!installed(install))
        return false;
    fixture_make_dir(server->dir, sizeof server->dir);
    snprintf(bucket, sizeof bucket, "%s/" STORE_BUCKET, server->dir);
    mkdir(bucket, 0755);
    server->server_port = fixture_free_port();
    snprintf(program, sizeof program, "%s/node_modules/s3rver/bin/s3rver.js", place);
    snprintf(port, sizeof port, "%d", server->server_port);
    snprintf(certificate, sizeof certificate, "%s/cert.pem", tls_dir ? tls_dir : "");
    snprintf(key, sizeof key, "%s/key.pem", tls_dir ? tls_dir : "");
    char *argv[] = {(char *)"node",
                    (char *)"--openssl-legacy-provider", /* its tokens are DES */
                    program,
                    (char *)"--directory",
                    server->dir,
                    (char *)"--address",
                    (char *)"127.0.0.1",
                    (char *)"--port",
                    port,
                    (char *)"--silent",
                    (char *)"--service-endpoint",
                    (char *)"localhost",
                    tls_dir ? (char *)"--cert" : NULL,
                    certificate,
                    (char *)"--key",
                    key,
                    NULL};
    FILE *in, *out;
    server->server = start(argv, &in, &out);
    wait_for_line(out, "listening", line, sizeof line);
    fclose(out);
    fclose(in);
    return true;
}

bool store_server_start(struct store_server *server, const char *tls_dir) {
    const char *source = getenv("MAROON_SOURCE"), *build = getenv("MAROON_BUILD");
    char script[512], port[16], uploads[80], line[256];
    memset(server, 0, sizeof *server);
    signal(SIGPIPE, SIG_IGN);
    if (!source || !build) {
        fprintf(stderr, "store: run this by meson test, or set MAROON_SOURCE and MAROON_BUILD\n");
        return false;
    }
    if (!start_s3rver(server, source, build, tls_dir))
        return false;
    if (tls_dir)
        return true;
    snprintf(script, sizeof script, "%s/tests/store/s3_proxy.py", source);
    snprintf(port, sizeof port, "%d", server->server_port);
    snprintf(uploads, sizeof uploads, "%s", server->dir);
    char *argv[] = {(char *)"python3",
                    script,
                    (char *)"--server",
                    port,
                    (char *)"--key",
                    (char *)STORE_ACCESS_KEY ":" STORE_SECRET_KEY,
                    (char *)"--uploads",
                    uploads,
                    NULL};
    server->proxy = start(argv, &server->to_proxy, &server->from_proxy);
    wait_for_line(server->from_proxy, "port ", line, sizeof line);
    server->port = (int)strtol(line + 5, NULL, 10);
    return true;
}

static void end(pid_t pid) {
    if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}

void store_server_stop(struct store_server *server) {
    end(server->proxy);
    end(server->server);
    if (server->to_proxy) {
        fclose(server->to_proxy);
        fclose(server->from_proxy);
    }
    if (server->dir[0])
        fixture_remove_dir(server->dir);
    memset(server, 0, sizeof *server);
}

static void ask(struct store_server *server, const char *question, char *ret_line, size_t room) {
    fprintf(server->to_proxy, "%s\n", question);
    fflush(server->to_proxy);
    assert_non_null(fgets(ret_line, (int)room, server->from_proxy));
    if (strncmp(ret_line, "ok", 2) != 0)
        fail_msg("proxy: %s: %s", question, ret_line);
}

void store_fault(struct store_server *server, const char *line) {
    char answer[256];
    ask(server, line, answer, sizeof answer);
}

uint64_t store_stat(struct store_server *server, const char *group, const char *name) {
    char answer[4096], quoted[64];
    ask(server, "stats", answer, sizeof answer);
    char *at = answer;
    if (*group) {
        snprintf(quoted, sizeof quoted, "\"%s\": {", group);
        at = strstr(at, quoted);
    }
    char *end_of_group = at && *group ? strchr(at, '}') : NULL;
    snprintf(quoted, sizeof quoted, "\"%s\": ", name);
    at = at ? strstr(at, quoted) : NULL;
    if (!at || (end_of_group && at > end_of_group))
        return 0;
    return strtoull(at + strlen(quoted), NULL, 10);
}

void store_client_open(struct store_client *client, const struct store_server *server,
                       const struct object_store_config *config) {
    char endpoint[64], text[512] = "";
    struct object_store_config own = *config;
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", server ? server->port : 0);
    if (!own.url)
        own.url = "s3://" STORE_BUCKET "/a/prefix";
    if (!own.endpoint)
        own.endpoint = endpoint;
    if (!own.retry_first_ms)
        own.retry_first_ms = 10;
    if (!own.retry_max_ms)
        own.retry_max_ms = 200;
    client->loop = loop_create();
    client->http = http_client_create(client->loop);
    int error =
        object_store_open(client->loop, client->http, &own, &client->store, text, sizeof text);
    if (error)
        fail_msg("open: %s", text);
}

void store_client_close(struct store_client *client) {
    object_store_close(client->store);
    http_client_destroy(client->http);
    loop_destroy(client->loop);
    memset(client, 0, sizeof *client);
    free(result.bytes);
    memset(&result, 0, sizeof result);
}

void store_take(void *context, struct object_store_answer *answer) {
    struct store_result *into = context;
    assert_false(into->done);
    into->done = true;
    into->error = answer->error;
    into->size_bytes = answer->size_bytes;
    into->modified_ms = answer->modified_ms;
    into->bytes = answer->bytes;
    answer->bytes = NULL;
    snprintf(into->text, sizeof into->text, "%s", answer->text);
}

void store_run(struct store_client *client, const bool *done, int limit_ms) {
    uint64_t until = fixture_now_ms() + (uint64_t)limit_ms;
    while (!*done && fixture_now_ms() < until)
        loop_run_once(client->loop, 20);
}

static struct store_result *fresh(void) {
    free(result.bytes);
    memset(&result, 0, sizeof result);
    return &result;
}

static struct store_result *finish(struct store_client *client, int error) {
    assert_int_equal(error, 0);
    assert_false(result.done);
    store_run(client, &result.done, PATIENCE_MS);
    assert_true(result.done);
    return &result;
}

struct store_result *store_put(struct store_client *client, const char *name, const void *bytes,
                               size_t count, bool skip_if_same) {
    return finish(client, object_store_put(client->store, name, bytes, count, skip_if_same,
                                           store_take, fresh()));
}

struct store_result *store_get(struct store_client *client, const char *name, uint64_t max_bytes) {
    return finish(client, object_store_get(client->store, name, max_bytes, store_take, fresh()));
}

struct store_result *store_head(struct store_client *client, const char *name) {
    return finish(client, object_store_head(client->store, name, store_take, fresh()));
}

static void on_entry(void *context, const struct object_store_entry *entry) {
    struct store_result *into = context;
    assert_false(into->done);
    into->count++;
    size_t used = strlen(into->names);
    snprintf(into->names + used, sizeof into->names - used, "%s ", entry->name);
}

struct store_result *store_list(struct store_client *client, const char *prefix) {
    return finish(client, object_store_list(client->store, prefix, on_entry, store_take, fresh()));
}

struct store_result *store_remove(struct store_client *client, const char *name) {
    return finish(client, object_store_remove(client->store, name, store_take, fresh()));
}

struct store_result *store_clean(struct store_client *client, uint64_t older_s) {
    return finish(client, object_store_clean(client->store, older_s, store_take, fresh()));
}

uint8_t *store_bytes(size_t count, uint32_t seed) {
    uint8_t *bytes = malloc(count ? count : 1);
    uint32_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(state >> 24);
    }
    return bytes;
}
