"""Members' states -> a custom object of their workers: one call each, of an object that allows a single instance. Nothing is created but that.

Of objects that allow several instances, a call removes those that it does not name: `custom_object` must name one that allows one only.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from streams.connectors.contract import MemberState, Outcome, Target, Writing, Written
from streams.connectors.workday import service
from streams.connectors.workday.service import NAMESPACE, FaultError
from streams.connectors.xml_reader import escape, quoteattr
from streams.errors import ContractError


def write(target: Target, states: Sequence[MemberState], now_ms: int) -> Writing:
    found = []
    for state in states:
        answer = yield service.request(target.options, "Staffing", edit_request(target, state, now_ms))
        try:
            service.response(answer, target.options["answer_name"])
        except FaultError as error:
            found.append(Written(outcome=Outcome.PARK, reason="VALIDATION", detail=error.detail))
        except ContractError as error:
            found.append(Written(outcome=Outcome.PARK, reason=error.reason, detail=error.detail))
        else:
            found.append(Written(outcome=Outcome.DONE))
    return found


def edit_request(target: Target, state: MemberState, now_ms: int) -> str:
    options = target.options
    day = datetime.fromtimestamp(now_ms / 1000, UTC).date().isoformat()
    account = state.account
    values = {
        options["points_field"]: str(account.available_points), options["tier_field"]: account.tier, options["sequence_field"]: str(state.sequence),
    }  # fmt: skip
    fields = "".join(f"<cus:{name}>{escape(value)}</cus:{name}>" for name, value in values.items() if name)
    return (
        f'<bsvc:Edit_Worker_Additional_Data_Request xmlns:bsvc="{NAMESPACE}" bsvc:version="{escape(options["version"])}"><bsvc:Business_Process_Parameters>'
        "<bsvc:Auto_Complete>true</bsvc:Auto_Complete><bsvc:Run_Now>true</bsvc:Run_Now></bsvc:Business_Process_Parameters>"
        f"<bsvc:Worker_Custom_Object_Data><bsvc:Effective_Date>{day}</bsvc:Effective_Date><bsvc:Worker_Reference>"
        f'<bsvc:ID bsvc:type={quoteattr(options["reference_type"])}>{escape(state.member_id)}</bsvc:ID></bsvc:Worker_Reference>'
        f"<bsvc:Business_Object_Additional_Data xmlns:cus={quoteattr(options['custom_namespace'])}><cus:{options['custom_object']}>{fields}"
        f"</cus:{options['custom_object']}></bsvc:Business_Object_Additional_Data></bsvc:Worker_Custom_Object_Data></bsvc:Edit_Worker_Additional_Data_Request>"
    )
