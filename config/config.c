#include "config/config.h"
#include "config/config_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <maroon/error.h>

#define FILE_MAX_BYTES 32768

static const char *const no_args[] = {NULL};

struct config_reader {
    struct config *config;
    enum config_source source;
    const char *where; /* "flag", "environment", "maroon.conf:12" */
    char *error;
};

__attribute__((format(printf, 3, 4))) static int refuse(char *error, int code, const char *format,
                                                        ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, CONFIG_ERROR_BYTES, format, arguments);
    va_end(arguments);
    return code;
}

/* Sets one key; a stronger source read earlier keeps its value, but the weaker is checked too. */
static int set(const struct config_reader *reader, int index, const char *name, const char *value) {
    const struct config_key *key = &config_keys[index];
    char allowed[CONFIG_VALUE_TEXT_BYTES];
    int error = config_value_set(reader->config, key, value);
    if (error != 0)
        return refuse(reader->error, error, "%s: %s = \"%.80s\" is not allowed; allowed: %.200s",
                      reader->where, name, key->form == CONFIG_FORM_SECRET ? "..." : value,
                      config_value_allowed(key, allowed));
    reader->config->source[index] = (uint8_t)reader->source;
    return 0;
}

/* ---- file ---- */

static char *trim(char *text) {
    text += strspn(text, " \t\r");
    size_t length = strlen(text);
    while (length > 0 && strchr(" \t\r", text[length - 1]) != NULL)
        text[--length] = '\0';
    return text;
}

static void cut_comment(char *line) {
    for (char *c = line; *c != '\0'; c++) {
        if (*c == '#' && (c == line || c[-1] == ' ' || c[-1] == '\t')) {
            *c = '\0';
            return;
        }
    }
}

static int file_line(struct config_reader *reader, char *line) {
    cut_comment(line);
    line = trim(line);
    if (*line == '\0')
        return 0;
    char *value = strchr(line, '=');
    if (value == NULL)
        return refuse(reader->error, MRN_ERR_INVALID,
                      "%s: \"%.80s\" is not of the form key = value", reader->where, line);
    *value++ = '\0';
    char *name = trim(line);
    int index = config_key_find(name, strlen(name));
    if (index < 0)
        return refuse(reader->error, MRN_ERR_NOT_FOUND, "%s: unknown key \"%.80s\"; see --help",
                      reader->where, name);
    if ((config_keys[index].programs & reader->config->program) == 0)
        return 0; /* one file may serve node, gateway and operator */
    return set(reader, index, name, trim(value));
}

static int file_text(struct config_reader *reader, const char *path, char *text) {
    char where[300];
    unsigned number = 0;
    while (text != NULL) {
        char *end = strchr(text, '\n');
        if (end != NULL)
            *end++ = '\0';
        snprintf(where, sizeof where, "%s:%u", path, ++number);
        reader->where = where;
        int error = file_line(reader, text);
        reader->where = path;
        if (error != 0)
            return error;
        text = end;
    }
    return 0;
}

static int read_file(struct config_reader *reader, const char *path) {
    char text[FILE_MAX_BYTES + 1];
    size_t length = 0;
    if (strlen(path) >= sizeof reader->config->config_file)
        return refuse(reader->error, MRN_ERR_INVALID, "config file: the path is too long");
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return refuse(reader->error, MRN_ERR_IO, "config file %s: %s", path, strerror(errno));
    while (length <= FILE_MAX_BYTES) {
        ssize_t got = read(file, text + length, sizeof text - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int error =
                refuse(reader->error, MRN_ERR_IO, "config file %s: %s", path, strerror(errno));
            close(file);
            return error;
        }
        if (got == 0)
            break;
        length += (size_t)got;
    }
    close(file);
    if (length > FILE_MAX_BYTES)
        return refuse(reader->error, MRN_ERR_INVALID, "config file %s: longer than %d bytes", path,
                      FILE_MAX_BYTES);
    if (memchr(text, '\0', length) != NULL)
        return refuse(reader->error, MRN_ERR_INVALID, "config file %s: not a text file", path);
    text[length] = '\0';
    strcpy(reader->config->config_file, path);
    return file_text(reader, path, text);
}

/* ---- environment ---- */

/* Value of `name` in `environment`, NULL when absent or empty (make and compose hand over empty
 * ones). */
static const char *environment_value(char *const environment[], const char *name) {
    size_t length = strlen(name);
    for (; environment != NULL && *environment != NULL; environment++)
        if (strncmp(*environment, name, length) == 0 && (*environment)[length] == '=')
            return (*environment)[length + 1] != '\0' ? *environment + length + 1 : NULL;
    return NULL;
}

/* A misspelt MAROON_... must not pass in silence. */
static int environment_unknown(const struct config_reader *reader, char *const environment[]) {
    char name[64];
    for (; environment != NULL && *environment != NULL; environment++) {
        const char *entry = *environment;
        size_t length = strcspn(entry, "=");
        if (strncmp(entry, "MAROON_", 7) != 0 || strncmp(entry, "MAROON_CONFIG=", 14) == 0)
            continue;
        bool known = false;
        for (uint32_t i = 0; i < config_key_count && !known; i++) {
            if (config_keys[i].field == NULL)
                continue;
            config_key_environment(&config_keys[i], name);
            known = strlen(name) == length && strncmp(name, entry, length) == 0;
        }
        if (!known)
            return refuse(reader->error, MRN_ERR_NOT_FOUND,
                          "environment: unknown key \"%.*s\"; see --help",
                          (int)(length > 80 ? 80 : length), entry);
    }
    return 0;
}

static int read_environment(struct config_reader *reader, char *const environment[]) {
    char name[64];
    reader->where = "environment";
    for (uint32_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->field == NULL || (key->programs & reader->config->program) == 0)
            continue;
        const char *used = config_key_environment(key, name);
        const char *value = environment_value(environment, used);
        if (value == NULL && key->environment != NULL) {
            used = key->environment;
            value = environment_value(environment, used);
        }
        int error = value == NULL ? 0 : set(reader, (int)i, used, value);
        if (error != 0)
            return error;
    }
    return environment_unknown(reader, environment);
}

/* ---- flags ---- */

static int positional(struct config_reader *reader, const char *argument) {
    struct config *config = reader->config;
    if (config->program != CONFIG_CTL)
        return refuse(reader->error, MRN_ERR_INVALID,
                      "flag: \"%.80s\" is not of the form --key value", argument);
    if (config->argument_count == sizeof config->arguments / sizeof config->arguments[0])
        return refuse(reader->error, MRN_ERR_INVALID, "flag: too many words");
    config->arguments[config->argument_count++] = argument;
    return 0;
}

static bool is_switch(const struct config_key *key) {
    return key->kind == CONFIG_KIND_WORD && strcmp(key->words, "off|on") == 0;
}

/* Reads argv[at]. Returns how many arguments were used, or an error. */
static int flag(struct config_reader *reader, int argc, char *const argv[], int at) {
    struct config *config = reader->config;
    const char *argument = argv[at];
    if (strncmp(argument, "--", 2) != 0) {
        int error = positional(reader, argument);
        return error != 0 ? error : 1;
    }
    const char *name = argument + 2;
    size_t length = strcspn(name, "=");
    const char *value = name[length] == '=' ? name + length + 1 : NULL;
    int index = config_key_find(name, length);
    bool ours = index >= 0 && (config_keys[index].programs & config->program) != 0;
    if (!ours && config->argument_count > 0) { /* a flag of a maroonctl command */
        int error = positional(reader, argument);
        return error != 0 ? error : 1;
    }
    if (!ours)
        return refuse(reader->error, MRN_ERR_NOT_FOUND, "flag: %s \"--%.*s\"; see --help",
                      index >= 0 ? "another program's key" : "unknown key",
                      (int)(length > 80 ? 80 : length), name);
    int used = 1;
    if (value == NULL && is_switch(&config_keys[index])) {
        value = "on";
    } else if (value == NULL) {
        if (at + 1 >= argc || argv[at + 1] == NULL || strcmp(argv[at + 1], "--") == 0)
            return refuse(reader->error, MRN_ERR_INVALID, "flag: --%s needs a value", name);
        value = argv[at + 1];
        used = 2;
    }
    char shown[64];
    config_key_flag(&config_keys[index], shown);
    int error = set(reader, index, shown, value);
    return error != 0 ? error : used;
}

static int read_flags(struct config_reader *reader, int argc, char *const argv[]) {
    reader->where = "flag";
    for (int i = 1; i < argc && argv[i] != NULL && strcmp(argv[i], "--") != 0;) {
        const char *argument = argv[i];
        if (strcmp(argument, "--check-config") == 0) {
            reader->config->action = CONFIG_CHECK;
            i++;
        } else if (reader->config->program == CONFIG_NODE &&
                   (strcmp(argument, "--preflight") == 0 ||
                    strncmp(argument, "--preflight=", 12) == 0)) {
            reader->config->action = CONFIG_PREFLIGHT;
            reader->config->preflight_root = argument[11] == '=' ? argument + 12 : "";
            i++;
        } else if (strcmp(argument, "--config") == 0) {
            i += 2; /* read before */
        } else if (strncmp(argument, "--config=", 9) == 0) {
            i++;
        } else {
            int used = flag(reader, argc, argv, i);
            if (used < 0)
                return used;
            i += used;
        }
    }
    return 0;
}

/* Looks ahead for what is not a key: --help, --version, --config and the end of our arguments. */
static int scan(struct config *config, int argc, char *const argv[], const char **ret_file,
                char *error) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            config->eal_args = (const char *const *)&argv[i + 1];
            config->eal_arg_count = (uint32_t)(argc - i - 1);
            break;
        }
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            config->action = CONFIG_HELP;
        } else if (strcmp(argv[i], "--version") == 0) {
            config->action = CONFIG_VERSION;
        } else if (strncmp(argv[i], "--config=", 9) == 0) {
            *ret_file = argv[i] + 9;
        } else if (strcmp(argv[i], "--config") == 0) {
            if (i + 1 >= argc)
                return refuse(error, MRN_ERR_INVALID, "flag: --config needs a file");
            *ret_file = argv[++i];
        }
    }
    return 0;
}

int config_load(struct config *ret_config, enum config_program program, int argc,
                char *const argv[], char *const environment[], char *ret_error) {
    struct config *config = ret_config;
    memset(config, 0, sizeof *config);
    config->program = program;
    config->eal_args = no_args;
    config->preflight_root = "";
    *ret_error = '\0';
    for (uint32_t i = 0; i < config_key_count; i++)
        if (config_keys[i].field != NULL)
            config_value_default(config, &config_keys[i]);

    const char *path = environment_value(environment, "MAROON_CONFIG");
    int error = scan(config, argc, argv, &path, ret_error);
    if (error != 0 || config->action == CONFIG_HELP || config->action == CONFIG_VERSION)
        return error;

    struct config_reader reader = {.config = config, .error = ret_error};
    reader.source = CONFIG_SOURCE_FILE; /* weakest first; each stronger one writes over it */
    if (path != NULL && (error = read_file(&reader, path)) != 0)
        return error;
    reader.source = CONFIG_SOURCE_ENVIRONMENT;
    if ((error = read_environment(&reader, environment)) != 0)
        return error;
    reader.source = CONFIG_SOURCE_FLAG;
    if ((error = read_flags(&reader, argc, argv)) != 0)
        return error;
    return config_check(config, ret_error);
}
