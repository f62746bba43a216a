/* SPDX-License-Identifier: Apache-2.0 */
/* A snapshot opened for loading, as load, compat and show share it; for these and their tests. */
#ifndef TORPOR_SNAPSHOT_IMAGE_H
#define TORPOR_SNAPSHOT_IMAGE_H

#include "snapshot/manifest.h"

struct snap_image {
	struct store_ref ref; /* owns the family */
	bool have_ref;
	struct reader *reader;
	struct manifest *manifest;
	struct snap_host host;
	uint8_t *config;
	size_t config_len;
};

#endif
