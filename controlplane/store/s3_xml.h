/* s3_xml: walks the small XML documents of S3, over expat.
 *
 * Pure; any thread. Hostile input ends as an error in bounded time and memory: no DTD, at most
 * S3_XML_DEPTH_MAX levels, S3_XML_TEXT_MAX - 1 bytes of text in an element. */
#ifndef MAROON_S3_XML_H
#define MAROON_S3_XML_H

#include <stddef.h>

#define S3_XML_DEPTH_MAX 8
#define S3_XML_TEXT_MAX 2048

/* At the end of each element. `parent`: the element around it, "" for the outermost. `text`: what
 * stood in it, "" when that was elements. Namespaces are left as written. */
typedef void (*s3_xml_handler)(void *context, const char *parent, const char *name,
                               const char *text);

/* Returns 0, MRN_ERR_MALFORMED or MRN_ERR_NO_MEMORY; the handler may have been called before. */
int s3_xml_walk(const char *bytes, size_t count, s3_xml_handler handler, void *context);

#endif
