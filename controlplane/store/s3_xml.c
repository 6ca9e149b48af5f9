#include "controlplane/store/s3_xml.h"

#include <expat.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>

#include "maroon/error.h"

#define NAME_MAX_BYTES 64

struct walk {
    XML_Parser parser;
    s3_xml_handler handler;
    void *context;
    char names[S3_XML_DEPTH_MAX][NAME_MAX_BYTES];
    int depth;
    char text[S3_XML_TEXT_MAX];
    size_t text_bytes;
};

static void refuse(struct walk *walk) {
    XML_StopParser(walk->parser, XML_FALSE);
}

static void on_start(void *context, const XML_Char *name, const XML_Char **attributes) {
    (void)attributes;
    struct walk *walk = context;
    if (walk->depth == S3_XML_DEPTH_MAX || strlen(name) >= NAME_MAX_BYTES) {
        refuse(walk);
        return;
    }
    memcpy(walk->names[walk->depth++], name, strlen(name) + 1);
    walk->text_bytes = 0;
}

static void on_end(void *context, const XML_Char *name) {
    struct walk *walk = context;
    walk->text[walk->text_bytes] = '\0';
    walk->depth--;
    walk->handler(walk->context, walk->depth ? walk->names[walk->depth - 1] : "", name, walk->text);
    walk->text_bytes = 0;
}

static void on_text(void *context, const XML_Char *text, int count) {
    struct walk *walk = context;
    if ((size_t)count >= sizeof walk->text - walk->text_bytes) {
        refuse(walk);
        return;
    }
    memcpy(walk->text + walk->text_bytes, text, (size_t)count);
    walk->text_bytes += (size_t)count;
}

static void on_doctype(void *context, const XML_Char *name, const XML_Char *system_id,
                       const XML_Char *public_id, int has_subset) {
    (void)name;
    (void)system_id;
    (void)public_id;
    (void)has_subset;
    refuse(context);
}

int s3_xml_walk(const char *bytes, size_t count, s3_xml_handler handler, void *context) {
    if (count > INT_MAX)
        return MRN_ERR_MALFORMED;
    struct walk walk = {.handler = handler, .context = context};
    walk.parser = XML_ParserCreate("UTF-8");
    if (!walk.parser)
        return MRN_ERR_NO_MEMORY;
    XML_SetUserData(walk.parser, &walk);
    XML_SetElementHandler(walk.parser, on_start, on_end);
    XML_SetCharacterDataHandler(walk.parser, on_text);
    XML_SetStartDoctypeDeclHandler(walk.parser, on_doctype);
    bool whole = XML_Parse(walk.parser, bytes, (int)count, XML_TRUE) == XML_STATUS_OK;
    XML_ParserFree(walk.parser);
    return whole ? 0 : MRN_ERR_MALFORMED;
}
