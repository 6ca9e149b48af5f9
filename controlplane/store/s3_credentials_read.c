/* The two forms in which keys come: the INI file of the AWS tools, JSON of a metadata service. */
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "controlplane/store/s3_credentials.h"
#include "maroon/error.h"

static bool keep(char *room, size_t room_bytes, const char *value, size_t count) {
    if (count >= room_bytes)
        return false;
    memcpy(room, value, count);
    room[count] = '\0';
    return true;
}

static bool visible(const char *text) {
    for (; *text; text++)
        if (!isgraph((unsigned char)*text))
            return false;
    return true;
}

static bool keys_valid(const struct s3_keys *keys) {
    return keys->access_key[0] && keys->secret_key[0] && visible(keys->access_key) &&
           visible(keys->secret_key) && visible(keys->token);
}

static void trim(const char **from, const char **to) {
    while (*from < *to && isspace((unsigned char)**from))
        (*from)++;
    while (*to > *from && isspace((unsigned char)(*to)[-1]))
        (*to)--;
}

static bool span_is(const char *from, const char *to, const char *word) {
    return (size_t)(to - from) == strlen(word) && memcmp(from, word, strlen(word)) == 0;
}

/* [profile] in the credentials file, [profile NAME] in the config file. */
static bool section_is(const char *from, const char *to, const char *profile) {
    static const char word[] = "profile ";
    if ((size_t)(to - from) > sizeof word - 1 && memcmp(from, word, sizeof word - 1) == 0)
        from += sizeof word - 1;
    trim(&from, &to);
    return span_is(from, to, profile);
}

static bool take_line(const char *from, const char *to, struct s3_keys *keys) {
    const char *equals = memchr(from, '=', (size_t)(to - from));
    if (!equals)
        return true;
    const char *name = from, *name_end = equals, *value = equals + 1, *value_end = to;
    trim(&name, &name_end);
    trim(&value, &value_end);
    size_t count = (size_t)(value_end - value);
    if (span_is(name, name_end, "aws_access_key_id"))
        return keep(keys->access_key, sizeof keys->access_key, value, count);
    if (span_is(name, name_end, "aws_secret_access_key"))
        return keep(keys->secret_key, sizeof keys->secret_key, value, count);
    if (span_is(name, name_end, "aws_session_token"))
        return keep(keys->token, sizeof keys->token, value, count);
    return true;
}

int s3_credentials_read_ini(const char *text, const char *profile, struct s3_keys *ret_keys) {
    struct s3_keys keys = {0};
    bool inside = false, found = false;
    while (*text) {
        const char *line_end = text + strcspn(text, "\r\n");
        const char *from = text, *to = line_end;
        trim(&from, &to);
        if (from < to && *from == '[' && to[-1] == ']') {
            inside = section_is(from + 1, to - 1, profile);
            found = found || inside;
        } else if (inside && from < to && *from != '#' && *from != ';') {
            if (!take_line(from, to, &keys))
                return MRN_ERR_MALFORMED;
        }
        text = line_end + strspn(line_end, "\r\n");
    }
    if (!found)
        return MRN_ERR_NOT_FOUND;
    if (!keys_valid(&keys))
        return MRN_ERR_MALFORMED;
    *ret_keys = keys;
    return 0;
}

static bool json_text(json_t *object, const char *name, char *room, size_t room_bytes) {
    const char *value = json_string_value(json_object_get(object, name));
    return value && keep(room, room_bytes, value, strlen(value));
}

int s3_credentials_read_json(const char *text, struct s3_keys *ret_keys) {
    struct s3_keys keys = {0};
    char expires[40];
    json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    bool valid = object && json_text(object, "AccessKeyId", keys.access_key, S3_ACCESS_KEY_MAX) &&
                 json_text(object, "SecretAccessKey", keys.secret_key, S3_SECRET_KEY_MAX);
    if (valid && json_object_get(object, "Token"))
        valid = json_text(object, "Token", keys.token, S3_TOKEN_MAX);
    if (valid && json_object_get(object, "Expiration")) {
        struct tm utc = {0};
        valid = json_text(object, "Expiration", expires, sizeof expires) &&
                strptime(expires, "%Y-%m-%dT%H:%M:%S", &utc);
        keys.expires_s = valid ? (int64_t)timegm(&utc) : 0;
    }
    json_decref(object);
    if (!valid || !keys_valid(&keys))
        return MRN_ERR_MALFORMED;
    *ret_keys = keys;
    return 0;
}
