#include "controlplane/store/s3_credentials.h"

#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "maroon/error.h"

#define FILE_BYTES_MAX 65536
#define RENEW_BEFORE_S 300
#define RENEW_AGAIN_S 30 /* after a renewal that failed, or brought keys that end soon */
#define METADATA_TIMEOUT_MS 5000
#define PATH_ROLES "/latest/meta-data/iam/security-credentials/"
#define PATH_TOKEN "/latest/api/token"

struct s3_credentials {
    struct loop *loop;
    struct http_client *http;
    char *file, *profile, *metadata_url;
    struct s3_keys keys;
    bool ready, fetching;
    int64_t renew_s; /* Unix time; 0: never */
    s3_credentials_done done;
    void *context;
    struct loop_timer timer;
    struct http_call *call;
    char session_header[1100]; /* of the metadata service, "" when it gave none */
    char role[160];
    int error;
    char text[400];
};

struct s3_credentials *s3_credentials_create(struct loop *loop, struct http_client *http,
                                             const char *file, const char *profile,
                                             const char *metadata_url) {
    struct s3_credentials *credentials = calloc(1, sizeof *credentials);
    if (!credentials)
        return NULL;
    credentials->loop = loop;
    credentials->http = http;
    const char *from_environment = getenv("AWS_PROFILE");
    if (!profile || !*profile)
        profile = from_environment && *from_environment ? from_environment : "default";
    credentials->file = strdup(file ? file : "");
    credentials->profile = strdup(profile);
    credentials->metadata_url = strdup(metadata_url ? metadata_url : "");
    if (!credentials->file || !credentials->profile || !credentials->metadata_url) {
        s3_credentials_destroy(credentials);
        return NULL;
    }
    return credentials;
}

void s3_credentials_destroy(struct s3_credentials *credentials) {
    if (!credentials)
        return;
    loop_timer_clear(credentials->loop, &credentials->timer);
    if (credentials->call)
        http_client_cancel(credentials->http, credentials->call);
    free(credentials->file);
    free(credentials->profile);
    free(credentials->metadata_url);
    sodium_memzero(credentials, sizeof *credentials);
    free(credentials);
}

const struct s3_keys *s3_credentials_keys(struct s3_credentials *credentials) {
    if (!credentials->ready)
        return NULL;
    if (credentials->renew_s && (int64_t)time(NULL) >= credentials->renew_s)
        return NULL;
    return &credentials->keys;
}

void s3_credentials_expire(struct s3_credentials *credentials) {
    credentials->ready = false;
}

static void deliver(void *context) {
    struct s3_credentials *credentials = context;
    int64_t now_s = (int64_t)time(NULL), expires_s = credentials->keys.expires_s;
    bool had = credentials->ready && expires_s > now_s;
    credentials->fetching = false;
    if (!credentials->error && expires_s && expires_s <= now_s) {
        credentials->error = MRN_ERR_DENIED;
        snprintf(credentials->text, sizeof credentials->text,
                 "the metadata service gave keys that have expired; is this clock right?");
    }
    credentials->ready = credentials->error == 0 || had; /* old keys serve until they end */
    if (had)
        credentials->error = 0;
    credentials->renew_s = 0;
    if (expires_s) {
        int64_t early_s = expires_s - RENEW_BEFORE_S, soon_s = now_s + RENEW_AGAIN_S;
        credentials->renew_s = early_s > soon_s ? early_s : soon_s;
    }
    credentials->done(credentials->context, credentials->error, credentials->text);
}

/* Always through the timer: `done` never comes before want returned. */
__attribute__((format(printf, 3, 4))) static void finish(struct s3_credentials *credentials,
                                                         int error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(credentials->text, sizeof credentials->text, format, arguments);
    va_end(arguments);
    credentials->error = error;
    loop_timer_set(credentials->loop, &credentials->timer, 0, deliver, credentials);
}

static void from_file(struct s3_credentials *credentials, const char *path) {
    char *bytes = malloc(FILE_BYTES_MAX + 1);
    size_t count = 0;
    if (!bytes) {
        finish(credentials, MRN_ERR_NO_MEMORY, "no memory to read %s", path);
        return;
    }
    FILE *file = fopen(path, "re");
    if (file) {
        count = fread(bytes, 1, FILE_BYTES_MAX, file);
        (void)fclose(file);
    }
    bytes[count] = '\0';
    if (!file) {
        finish(credentials, MRN_ERR_DENIED, "the credentials file %s cannot be read: %m", path);
    } else {
        int error = s3_credentials_read_ini(bytes, credentials->profile, &credentials->keys);
        if (error == MRN_ERR_NOT_FOUND)
            finish(credentials, MRN_ERR_DENIED, "the credentials file %s has no section [%s]", path,
                   credentials->profile);
        else if (error)
            finish(credentials, MRN_ERR_DENIED,
                   "section [%s] of %s lacks a valid aws_access_key_id and aws_secret_access_key",
                   credentials->profile, path);
        else
            finish(credentials, 0, "%s", "");
    }
    sodium_memzero(bytes, count);
    free(bytes);
}

static bool copy_key(char *room, size_t room_bytes, const char *value) {
    return (size_t)snprintf(room, room_bytes, "%s", value) < room_bytes;
}

static void from_environment(struct s3_credentials *credentials, const char *access_key) {
    const char *secret = getenv("AWS_SECRET_ACCESS_KEY"), *token = getenv("AWS_SESSION_TOKEN");
    struct s3_keys *keys = &credentials->keys;
    keys->expires_s = 0;
    if (!secret || !*secret || !copy_key(keys->access_key, S3_ACCESS_KEY_MAX, access_key) ||
        !copy_key(keys->secret_key, S3_SECRET_KEY_MAX, secret) ||
        !copy_key(keys->token, S3_TOKEN_MAX, token ? token : ""))
        finish(credentials, MRN_ERR_DENIED,
               "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not, or one is too long");
    else
        finish(credentials, 0, "%s", "");
}

static void ask_metadata(struct s3_credentials *credentials, const char *method, const char *path,
                         const char *header,
                         void (*done)(void *context, const struct http_answer *answer)) {
    char url[512];
    int count = snprintf(url, sizeof url, "%s%s", credentials->metadata_url, path);
    struct http_options options = {
        .url = url,
        .method = method,
        .body = method ? "" : NULL,
        .headers = {header && *header ? header : NULL},
        .timeout_ms = METADATA_TIMEOUT_MS,
        .answer_max_bytes = 16384,
        .done = done,
        .context = credentials,
    };
    if (count < 0 || (size_t)count >= sizeof url ||
        http_client_call(credentials->http, &options, &credentials->call))
        finish(credentials, MRN_ERR_INVALID, "the metadata service's URL %s cannot be used",
               credentials->metadata_url);
}

/* Whether the answer is a 200; otherwise the fetch is over. */
static bool metadata_answered(struct s3_credentials *credentials, const char *what,
                              const struct http_answer *answer) {
    if (!answer->error && answer->status == 200)
        return true;
    if (answer->error)
        finish(credentials, MRN_ERR_UNAVAILABLE, "the metadata service %s does not answer (%s): %s",
               credentials->metadata_url, what, answer->text);
    else
        finish(credentials, answer->status < 500 ? MRN_ERR_DENIED : MRN_ERR_UNAVAILABLE,
               "the metadata service %s has no %s: HTTP %ld", credentials->metadata_url, what,
               answer->status);
    return false;
}

static void on_role_keys(void *context, const struct http_answer *answer) {
    struct s3_credentials *credentials = context;
    credentials->call = NULL;
    if (!metadata_answered(credentials, "keys for the instance's role", answer))
        return;
    if (s3_credentials_read_json(answer->body, &credentials->keys))
        finish(credentials, MRN_ERR_DENIED,
               "the metadata service %s gave no valid keys for role %s", credentials->metadata_url,
               credentials->role);
    else
        finish(credentials, 0, "%s", "");
}

static void on_role(void *context, const struct http_answer *answer) {
    struct s3_credentials *credentials = context;
    credentials->call = NULL;
    if (!metadata_answered(credentials, "role", answer))
        return;
    char path[sizeof PATH_ROLES + sizeof credentials->role];
    size_t count = strcspn(answer->body, "\r\n");
    if (count == 0 || count >= sizeof credentials->role || strpbrk(answer->body, " /?#")) {
        finish(credentials, MRN_ERR_DENIED, "the metadata service %s names no role",
               credentials->metadata_url);
        return;
    }
    memcpy(credentials->role, answer->body, count);
    credentials->role[count] = '\0';
    snprintf(path, sizeof path, "%s%s", PATH_ROLES, credentials->role);
    ask_metadata(credentials, NULL, path, credentials->session_header, on_role_keys);
}

/* A service that knows no sessions (version 1) answers 403, 404 or 405: then without. */
static void on_session(void *context, const struct http_answer *answer) {
    struct s3_credentials *credentials = context;
    credentials->call = NULL;
    credentials->session_header[0] = '\0';
    if (answer->error || answer->status >= 500) {
        (void)metadata_answered(credentials, "session", answer);
        return;
    }
    if (answer->status == 200) {
        int count = snprintf(credentials->session_header, sizeof credentials->session_header,
                             "X-aws-ec2-metadata-token: %.*s", (int)strcspn(answer->body, "\r\n"),
                             answer->body);
        if (count < 0 || (size_t)count >= sizeof credentials->session_header) {
            finish(credentials, MRN_ERR_DENIED, "the metadata service %s gave no valid session",
                   credentials->metadata_url);
            return;
        }
    }
    ask_metadata(credentials, NULL, PATH_ROLES, credentials->session_header, on_role);
}

bool s3_credentials_want(struct s3_credentials *credentials, s3_credentials_done done,
                         void *context) {
    if (credentials->fetching)
        return false;
    credentials->fetching = true;
    credentials->error = 0;
    credentials->done = done;
    credentials->context = context;
    const char *access_key = getenv("AWS_ACCESS_KEY_ID"), *home = getenv("HOME");
    char path[512];
    if (*credentials->file) {
        from_file(credentials, credentials->file);
    } else if (access_key && *access_key) {
        from_environment(credentials, access_key);
    } else if (*credentials->metadata_url) {
        ask_metadata(credentials, "PUT", PATH_TOKEN, "X-aws-ec2-metadata-token-ttl-seconds: 21600",
                     on_session);
    } else if (home && *home &&
               (size_t)snprintf(path, sizeof path, "%s/.aws/credentials", home) < sizeof path &&
               access(path, F_OK) == 0) {
        from_file(credentials, path);
    } else {
        finish(credentials, MRN_ERR_DENIED,
               "no credentials: set store-credentials-file, store-metadata-url, or "
               "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
    }
    return true;
}
