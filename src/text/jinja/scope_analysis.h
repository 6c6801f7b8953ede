// Jinja decides when it compiles a template which scope a name belongs to, not when it runs: a name
// that a scope assigns is that scope's from its start, unless the scope reads it first or assigns
// it only in a branch of an if. Source: jinja2.idtracking.
#pragma once

#include "text/jinja/ast.h"

namespace lorax::jinja {

// Fills in `hidden` of all bodies of a template.
void analyze_scopes(ScopedBody& root);

}  // namespace lorax::jinja
