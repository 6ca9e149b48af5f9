#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/ctl/ctl.h"

#define ANSWER_MAX_BYTES (16u << 20)
#define TIMEOUT_MS 3000

struct answer {
    char *text;
    size_t bytes;
};

static size_t on_body(char *bytes, size_t size, size_t count, void *context) {
    struct answer *answer = context;
    size_t more = size * count;
    if (more > ANSWER_MAX_BYTES - answer->bytes)
        return 0;
    char *grown = realloc(answer->text, answer->bytes + more + 1);
    if (!grown)
        return 0;
    answer->text = grown;
    memcpy(answer->text + answer->bytes, bytes, more);
    answer->bytes += more;
    answer->text[answer->bytes] = '\0';
    return more;
}

long ctl_http(const char *address, const char *method, const char *path, char **ret_body) {
    return ctl_http_wait(address, method, path, TIMEOUT_MS, ret_body);
}

long ctl_http_wait(const char *address, const char *method, const char *path, uint32_t timeout_ms,
                   char **ret_body) {
    char url[512], why[CURL_ERROR_SIZE] = "";
    struct answer answer = {0};
    long status = 0;
    CURL *easy = curl_easy_init();
    if (!easy) {
        *ret_body = NULL;
        return 0;
    }
    snprintf(url, sizeof url, "http://%.200s%.200s", address, path);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &answer);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, why);
    if (strcmp(method, "POST") == 0) {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, "");
    }
    if (curl_easy_perform(easy) == CURLE_OK) {
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
        *ret_body = answer.text ? answer.text : strdup("");
    } else {
        free(answer.text);
        *ret_body = strdup(why[0] ? why : "no answer");
    }
    curl_easy_cleanup(easy);
    return status;
}

int ctl_statuses(const struct ctl_options *options, json_t *ret_statuses[CTL_NODES_MAX]) {
    int answered = 0;
    for (int i = 0; i < options->node_count; i++) {
        char *body = NULL;
        long status = ctl_http(options->nodes[i], "GET", "/v1/status", &body);
        ret_statuses[i] = status == 200 && body ? json_loads(body, 0, NULL) : NULL;
        if (ret_statuses[i] && json_is_object(ret_statuses[i])) {
            answered++;
        } else {
            json_decref(ret_statuses[i]);
            ret_statuses[i] = NULL;
            if (status)
                fprintf(stderr, "maroonctl: %s: HTTP status %ld\n", options->nodes[i], status);
            else
                fprintf(stderr, "maroonctl: %s: %s\n", options->nodes[i],
                        body ? body : "out of memory");
        }
        free(body);
    }
    for (int i = options->node_count; i < CTL_NODES_MAX; i++)
        ret_statuses[i] = NULL;
    return answered;
}

void ctl_statuses_free(json_t *statuses[CTL_NODES_MAX]) {
    for (int i = 0; i < CTL_NODES_MAX; i++)
        json_decref(statuses[i]);
}
